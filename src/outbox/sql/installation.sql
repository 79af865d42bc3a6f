-- The name of this outbox in markers, and the number of its shards. Changes nothing.
select id, (select count(*) from outbox_shards) as shards from outbox_installation
