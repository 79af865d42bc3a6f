-- What the rows of some ids are, to say why one cannot be replayed. $1 bigint[]: ids. Changes nothing.
select id, status, dead_letter_of from outbox_current where id = any($1) order by id
