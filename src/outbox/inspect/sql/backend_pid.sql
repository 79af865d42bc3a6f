-- The server process that serves this statement. A connection that is not behind a pooler always has the same one.
select pg_backend_pid()
