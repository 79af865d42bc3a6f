-- Orders are paid. $1 bigint[]: orders.
-- Repeating it changes nothing. The row count tells whether all of them were still to be paid.
update demo_orders
set state = 'paid'
where id = any($1::bigint[]) and state = 'placed'
