-- Takes events off the list of those that wait again: they are published, have failed or are held. $1 bigint[]: ids.
-- Ids that are not listed do no harm.
delete from outbox_again where id = any($1)
