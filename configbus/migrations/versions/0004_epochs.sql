-- Begins a new history above everything named, whatever is released meanwhile; returns the epoch. Nothing is done, and
-- nothing returned, where the epoch is not the one expected any more: somebody else began one.

DROP FUNCTION {schema}.raise_epoch(text, bigint, bigint, bigint, text);

CREATE FUNCTION {schema}.raise_epoch(of text, expected bigint, above bigint, why text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    place {schema}.environment;
    raised bigint;
BEGIN
    SELECT * INTO STRICT place FROM {schema}.environment WHERE name = of FOR NO KEY UPDATE;
    IF place.epoch <> expected THEN
        RETURN NULL;
    END IF;
    raised := greatest(floor(extract(epoch FROM clock_timestamp()))::bigint, place.epoch / 1000 + 1, above / 1000 + 1)
              * 1000 + {schema}.timeline();
    IF raised > 999999999999999 THEN
        RAISE EXCEPTION 'no epoch lies above %: whatever named it is damaged', above
            USING ERRCODE = 'numeric_value_out_of_range';
    END IF;
    UPDATE {schema}.environment SET epoch = raised, system = {schema}.server() WHERE name = of;
    INSERT INTO {schema}.config_audit_log (config_table, config_id, environment, key, action, old_values, new_values,
                                           changed_fields, reason, performed_by, source_ip, user_agent)
    VALUES ('environment', '00000000-0000-0000-0000-000000000000', of, '', 'epoch',
            jsonb_build_object('epoch', place.epoch, 'system', place.system),
            jsonb_build_object('epoch', raised, 'system', {schema}.server()), ARRAY['epoch'], why,
            {schema}.actor(), host(inet_client_addr()), current_setting('application_name'));
    PERFORM {schema}.ring(of);
    RETURN raised;
END $$;
