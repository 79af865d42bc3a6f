-- Takes events off the list of those that wait again: they are published, have failed or are held. $1 bigint[]: ids.
-- Returns those that were listed.
delete from outbox_again where id = any($1) returning id
