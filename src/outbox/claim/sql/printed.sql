-- The payload and the headers as text, printed once, unless the rows before have filled the batch. $1 bigint: most
-- bytes of one row; a value that may exceed it is null.
case when current_setting('outbox_relay.claimed') <> 'all' then outbox_json_text(payload, $1) end as payload_text,
case
  when headers is not null and current_setting('outbox_relay.claimed') <> 'all' then outbox_json_text(headers, $1)
end as headers_text
