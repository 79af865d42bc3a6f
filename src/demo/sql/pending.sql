-- Whether an event still waits to be published. Returns one boolean. Reads only.
select exists (select from outbox_events where status = 'PENDING')
