-- The next rows by id, with what overrules their status: the watermark of their shard (`passed`), and their outcome.
-- $1 bigint: begin after this id. $2 bigint: highest id. $3 bigint: most rows.
select e.id, e.status, e.published_at, e.failed_at, e.created_at, p.done_id, o.status as outcome, o.at as outcome_at
  from outbox_events e
  left join passed p on p.shard = e.shard
  left join outbox_outcomes o on o.id = e.id and o.event_id = e.event_id
    and (e.status in ('PENDING', 'HELD') or (e.status = 'FAILED' and o.status = 'DISCARDED'))
  where e.id > $1 and e.id <= $2
  order by e.id limit $3
