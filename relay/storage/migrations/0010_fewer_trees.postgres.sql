-- A delivery is found by its project and its id, an attempt by its delivery and its number. PostgreSQL changes the keys in place.

ALTER TABLE deliveries DROP CONSTRAINT deliveries_pkey;

DROP INDEX deliveries_page;

ALTER TABLE deliveries ADD PRIMARY KEY (project_id, id);

ALTER TABLE attempts DROP CONSTRAINT attempts_pkey;

DROP INDEX attempts_of_delivery;

ALTER TABLE attempts ADD PRIMARY KEY (delivery_id, number);
