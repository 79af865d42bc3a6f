-- Digests of the keys of events that cannot be read. $1 bigint[]: ids. Null for an event without a key, and for a dead
-- letter, for which nothing waits. Computed on the server, so that no byte of a key has to be sent. Changes nothing.
select id, case when dead_letter_of is null then md5(outbox_key_of(partition_key, aggregate_id)) end as key_md5
from outbox_events
where id = any($1)
