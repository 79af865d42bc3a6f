-- Gives the event of trial_event.sql another state, in the same transaction. $1 bigint: its id. $2 text: the state.
update outbox_events
set status = $2, retry_count = 1, last_error = case when $2 = 'FAILED' then 'check: on trial' end,
  failed_at = case when $2 = 'FAILED' then now() end, published_at = case when $2 = 'PUBLISHED' then now() end,
  dead_letter_to = null, dead_letter_from = topic, published_partition = 0, published_offset = 0
where id = $1
