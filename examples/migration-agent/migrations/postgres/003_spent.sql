-- What each has spent, kept by a trigger from now on.
-- requires: 002_orders
-- statement-timeout: 10min

ALTER TABLE customers ADD COLUMN spent bigint NOT NULL DEFAULT 0;

UPDATE customers SET spent = (SELECT coalesce(sum(cents), 0) FROM orders WHERE customer = customers.id);

CREATE FUNCTION add_to_spent() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE customers SET spent = spent + new.cents WHERE id = new.customer;
    RETURN new;
END;
$$;

CREATE TRIGGER orders_spent AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION add_to_spent();
