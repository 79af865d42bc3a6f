-- The process of this session, to find out what it waits for. No parameters. Reads only.
select pg_backend_pid()
