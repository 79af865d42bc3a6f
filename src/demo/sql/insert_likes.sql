-- Shoppers like products. $1 bigint[]: ids of the likes, $2 bigint[]: users, $3 bigint[]: products, side by side.
-- Not to be repeated: the primary key refuses a like that is there.
insert into demo_likes (id, user_id, product_id)
select * from unnest($1::bigint[], $2::bigint[], $3::bigint[])
