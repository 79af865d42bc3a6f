-- Shoppers take likes back. $1 bigint[]: ids of the likes.
-- Repeating it changes nothing. The row count tells whether all of them stood.
delete from demo_likes
where id = any($1::bigint[])
