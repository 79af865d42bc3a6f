-- Sizes of rows as they are read: jsonb counts as it prints, and a value that is known to print too much is never printed.
-- Nothing here touches a row.

-- The text of a jsonb value that may be large, or null if it certainly has more than `most` bytes. That is found out without printing it, since
-- printing may take seconds, and fails above 1 GB:
-- Four bytes of jsonb print at least one character; the shortest are arrays of single digits, with 12 bytes and 3 characters for each.
-- A number of 16 bytes can print 131,072 digits, or 16,383 behind the point: 64 kB of the first kind and 512 kB of the second print half a gigabyte at
-- most. In larger values the digits of all numbers are added up, if there is a very large one or it is not known. What is left then prints little
-- more than ten times as much as `most`.
create function outbox_json_text_measured(value jsonb, most bigint) returns text
  language plpgsql stable
as $$
declare
  whole jsonb;
  size int;
  digits bigint;
begin
  if pg_column_size(value) > 4 * most + 1000 then
    return null;
  end if;
  -- The empty path gives the value as it is, but decompressed: once for all that is done with it here.
  whole := value #> '{}';
  size := pg_column_size(whole);
  if size > 4 * most + 1000 then
    return null;
  elsif size <= 65536 then
    return whole::text;
  end if;
  begin
    if size > 524288 or jsonb_path_exists(whole, 'strict $.** ? (@ > 1e1000 || @ < -1e1000)') then
      select sum(scale(number::numeric) + case
          when abs(number::numeric) > 1e100000 then 100000
          when abs(number::numeric) > 1e10000 then 10000
          when abs(number::numeric) > 1e1000 then 1000
          else 0
        end)
      into digits
      from jsonb_array_elements(jsonb_path_query_array(whole, 'strict $.** ? (@.type() == "number")')) number;
      if digits > most then
        return null;
      end if;
    end if;
  exception when statement_too_complex then
    -- Nested more deeply than a path can follow, which takes thousands of levels. That alone, up to the depth that PostgreSQL stores, has less than
    -- 120,000 bytes; what a larger value prints is not known, so it counts as too long.
    if size > 120000 then
      return null;
    end if;
  end;
  return whole::text;
end
$$;

-- The text of a jsonb value, or null if it certainly has more than `most` bytes. 2,000 bytes that are not compressed print 16 MB at most and are
-- printed at once. PostgreSQL inlines this function; the one above it does not.
create function outbox_json_text(value jsonb, most bigint) returns text
  language sql stable
  return case
    when pg_column_size(value) <= 2000 and pg_column_compression(value) is null then value::text
    when value is not null then outbox_json_text_measured(value, most)
  end;

-- A text as commands show it: of a very long one the beginning.
create function outbox_shown(value text) returns text
  language sql immutable parallel safe
  return case when octet_length(value) > 4000 then left(value, 1000) || '...' else value end;

-- Counts a row that a claim is about to return. Null: it is returned whole. Its size, if that is above `record_most`: it is returned without its
-- contents, and as it takes time to measure, four of these are enough for one claim, or one that printed very much. -1: the claim had `most`
-- bytes before this row.
-- The count is a setting of the transaction, since nothing else in a statement is known from one row to the next; claims set it to 0 first.
create function outbox_count_claimed(size bigint, record_most bigint, most bigint) returns bigint
  language sql volatile
  return (
    select case
      when total = 'all' then -1
      when set_config(
        'outbox_relay.claimed', case when added >= most - total::bigint then 'all' else (total::bigint + added)::text end, true
      ) <> '' and size > record_most then size
    end
    from (
      select current_setting('outbox_relay.claimed') as total,
        case when size <= record_most then size else greatest(least(size, most / 4 + 1), size / 16) end as added
    ) counted
  );

-- As before. At the end: somebody has or had a lock on the row, or has changed it in a transaction that is open or was rolled back.
-- `bytes` is for relays of version 0.1.
create or replace view outbox_claimable with (security_invoker = true) as
select id, shard, status, event_id, aggregate_type, aggregate_id, event_type, event_version, topic,
  outbox_key_of(partition_key, aggregate_id) as key,
  octet_length(coalesce(partition_key, aggregate_id)) as key_bytes,
  payload, payload_raw, headers, correlation_id, causation_id, source, traceparent,
  least(greatest(created_at, timestamptz '1970-01-01 00:00:00Z'), timestamptz '9999-12-01 00:00:00Z') as created_at,
  case when available_at > now()
    then extract(epoch from least(available_at, now() + interval '100 years') - now())::float8
  end as due_in,
  (case
    when payload is null then coalesce(octet_length(payload_raw), 0)
    when pg_column_compression(payload) is null then pg_column_size(payload)
    else octet_length(payload::text)
  end
  + coalesce(pg_column_size(headers), 0) + coalesce(octet_length(aggregate_id), 0) + coalesce(octet_length(partition_key), 0)
  + octet_length(event_type) + coalesce(octet_length(aggregate_type), 0) + coalesce(octet_length(topic), 0)
  + coalesce(octet_length(correlation_id), 0) + coalesce(octet_length(causation_id), 0)
  + coalesce(octet_length(source), 0) + coalesce(octet_length(traceparent), 0))::bigint as bytes,
  replay_of, dead_letter_of,
  partition_key,
  xmax <> 0 as touched
from outbox_events;
