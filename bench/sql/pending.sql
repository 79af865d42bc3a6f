-- Whether a row waits. Changes nothing.
select exists (select 1 from outbox_events where status = 'PENDING')
