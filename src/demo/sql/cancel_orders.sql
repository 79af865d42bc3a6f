-- Orders are cancelled, paid or not. $1 bigint[]: orders.
-- Repeating it changes nothing. The row count tells whether all of them stood.
update demo_orders
set state = 'cancelled'
where id = any($1::bigint[]) and state <> 'cancelled'
