-- Which of these ids are rows of the outbox. $1 bigint[]: ids. Changes nothing.
select id from outbox_events where id = any($1)
