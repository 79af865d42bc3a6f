-- Shoppers place orders. $1 bigint[]: orders, $2 bigint[]: users, $3 text[]: lines as JSON, side by side.
-- Not to be repeated: the primary key refuses an order that is there.
insert into demo_orders (id, user_id, lines)
select placed.id, placed.user_id, placed.lines::jsonb
from unnest($1::bigint[], $2::bigint[], $3::text[]) as placed (id, user_id, lines)
