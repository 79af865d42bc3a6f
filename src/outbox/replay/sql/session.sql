-- Settings of a session that walks the outbox by its primary key: without statistics the planner would read and sort
-- all that is left of the table for every window. Setting them again changes nothing.
select set_config('enable_seqscan', 'off', false), set_config('enable_bitmapscan', 'off', false)
