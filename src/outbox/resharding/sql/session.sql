-- Settings of a session that looks for the events that wait: by their indexes, whatever the statistics say, and for as
-- long as it takes. Events that it moves are listed by move.sql, not by the trigger of V13.
select set_config('enable_seqscan', 'off', false), set_config('enable_bitmapscan', 'off', false), set_config('statement_timeout', '0', false),
  set_config('outbox_relay.resharding', 'on', false)
