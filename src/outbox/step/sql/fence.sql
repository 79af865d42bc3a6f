-- Locks the row of a shard if it is still ours, so that nobody can take it over during this transaction. $1 smallint:
-- shard. $2 uuid: owner. $3 bigint: epoch. Returns no row when another instance owns the shard. Otherwise: which run of
-- the server this is (see last_id.sql), low_id, done_id, ahead_ids, batch_seq, the number of events in flight or null,
-- whether events wait again below done_id, whether the outcome of any event stands in outbox_outcomes, whether any key
-- of the shard is held, and whether a held key is due for release.
select (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint
    + coalesce((extract(epoch from pg_stat_get_bgwriter_stat_reset_time()) * 1000000)::bigint, 0)
    # (coalesce(pg_relation_filenode('outbox_events_id_seq'), 0)::bigint << 20) as server,
  low_id, done_id, ahead_ids, batch_seq, cardinality(batch_ids) as batch_rows,
  exists (select 1 from outbox_again a where a.shard = s.shard) as has_requeued,
  exists (select 1 from outbox_outcomes) as any_outcomes,
  exists (select 1 from outbox_held_keys h where h.shard = s.shard) as any_held,
  exists (select 1 from outbox_held_keys h where h.shard = s.shard and h.release_at <= now()) as release_due
from outbox_shards s
where shard = $1 and owner = $2 and epoch = $3
for no key update of s
