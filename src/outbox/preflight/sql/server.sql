-- The encoding of the database, and why nothing could be written to it, or null. Changes nothing.
select getdatabaseencoding()::text as encoding,
  case
    when pg_is_in_recovery() then 'the server is a standby'
    when (select setting from pg_settings where name = 'default_transaction_read_only') = 'on'
      then 'default_transaction_read_only is on for the database or the role'
  end as read_only
