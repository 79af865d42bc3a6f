-- Whether {name}, which was taken off, has a row that is not finished. Changes nothing.
select exists (
  select 1 from {name} e
  left join outbox_shards s on s.shard = e.shard
  where e.status not in ('PUBLISHED', 'DISCARDED')
    and (e.status <> 'PENDING' or e.id > s.done_id or exists (select 1 from outbox_again a where a.id = e.id)
      or e.id = any(s.batch_ids) or e.id in (select id from outbox_outcomes where status in ('FAILED', 'HELD')))
    and e.id not in (select id from outbox_outcomes where status in ('PUBLISHED', 'DISCARDED'))
) as unfinished
