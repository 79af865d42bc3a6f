-- Takes a partition, as the consumer does, for `check` alone, in a transaction that is rolled back.
insert into consumer_partitions as known (consumer_group, topic, partition, epoch, next_offset)
values ('outbox-relay check', 'outbox-relay-check', 0, 1, 0)
on conflict (consumer_group, topic, partition, projection) do update set epoch = known.epoch + 1, updated_at = now()
