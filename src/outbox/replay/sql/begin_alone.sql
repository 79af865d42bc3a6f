-- Waits until no other process begins a replay of this outbox, until the end of the transaction. $1 int: the key, see
-- locks.rs. Other outboxes in the same database have locks of their own, by the oid of a table. Changes nothing.
select pg_advisory_xact_lock(hashtextextended('outbox-relay ' || $1::int, 'outbox_shards'::regclass::oid::bigint))
