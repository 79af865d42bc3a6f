-- Events whose outcome has one of these states, whatever their rows say. $1 text[]: states. $2 bigint: most of them.
-- Changes nothing.
select id from outbox_outcomes where status = any($1) order by id desc limit $2
