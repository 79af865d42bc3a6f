-- Whether the outbox has ever held an event that is still there.
select exists (select 1 from outbox_events)
