-- Locks the rows of those shards that are still ours, so that nobody can take them over during this transaction. In a
-- shared step `skip locked` is appended: it waits for nobody then. $1 uuid: owner. $2 smallint[]: shards. $3 bigint[]:
-- their epochs, in the same order. Returns no row for a shard that another instance owns. Otherwise: which run of the
-- server this is (see last_id.sql), low_id, done_id, ahead_ids, batch_seq, the number of events in flight or null,
-- whether events wait again below done_id, whether the outcome of any event stands in outbox_outcomes, whether any key
-- of the shard is held, and whether a held key is due for release. No join with the arrays, for the reason given in
-- renew_leases.sql.
select shard, (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint
    + coalesce((extract(epoch from pg_stat_get_bgwriter_stat_reset_time()) * 1000000)::bigint, 0)
    # (coalesce(pg_relation_filenode('outbox_events_id_seq'), 0)::bigint << 20) as server,
  low_id, done_id, ahead_ids, batch_seq, cardinality(batch_ids) as batch_rows,
  exists (select 1 from outbox_again a where a.shard = s.shard) as has_requeued,
  exists (select 1 from outbox_outcomes) as any_outcomes,
  exists (select 1 from outbox_held_keys h where h.shard = s.shard) as any_held,
  exists (select 1 from outbox_held_keys h where h.shard = s.shard and h.release_at <= now()) as release_due
from outbox_shards s
where owner = $1 and shard = any($2) and epoch = ($3::bigint[])[array_position($2, shard)]
for no key update of s
