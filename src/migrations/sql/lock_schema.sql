-- Waits until no other session migrates the same schema. $1 text: its name. Released when the session ends.
select pg_advisory_lock(hashtextextended('outbox-relay migrations ' || $1, 0))
