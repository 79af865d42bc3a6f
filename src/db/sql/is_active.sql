-- Whether the server process of a session of ours is working on a statement. $1 int: its pid. A session that waits for
-- its client has sent its answer; one that is gone will never send any. A role sees the state of its own sessions.
select exists (select 1 from pg_stat_activity where pid = $1 and state is distinct from 'idle' and state is distinct from 'idle in transaction')
