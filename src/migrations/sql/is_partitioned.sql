-- Whether the outbox is a partitioned table. Changes nothing.
select relkind = 'p' as partitioned from pg_class where oid = 'outbox_events'::regclass
