-- Locks the events whose dead letters are due, in order. $1 bigint: most of them. $2 bigint[]: those that are put off.
-- Returns their ids. Changes nothing by itself; the locks end with the transaction.
select id from outbox_events
where dead_letter_to is not null and id <> all($2)
order by id limit $1
for no key update skip locked
