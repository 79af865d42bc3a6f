-- Instances that were alive a minute ago, by name and version. No parameters. Changes nothing.
select name, version from outbox_instances where heartbeat_at > clock_timestamp() - interval '1 minute' order by name
