-- Events that were HELD without their rows saying so wait no more. $1 bigint[]: ids. Running it twice changes nothing
-- more.
delete from outbox_outcomes where id = any($1) and status = 'HELD'
