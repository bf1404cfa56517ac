-- The tables of the demo.  Then come the COPY commands of corpus.sql.xz, and load.sql.
CREATE EXTENSION ann;

CREATE TABLE manual (
    id        integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    part      text NOT NULL,            -- 'Server Administration'
    chapter   text NOT NULL,            -- 'Server Configuration'
    title     text NOT NULL,            -- all titles from the chapter down
    page      text NOT NULL,
    anchor    text NOT NULL,
    body      text NOT NULL,
    words     tsvector GENERATED ALWAYS AS
              (setweight(to_tsvector('english', title), 'A') || to_tsvector('english', body)) STORED,
    embedding vector(256) NOT NULL      -- what the passage means
);
-- Every search reads this column: keep it in the row, out of TOAST.
ALTER TABLE manual ALTER embedding SET STORAGE PLAIN;

CREATE TABLE terms (
    lexeme    text PRIMARY KEY,         -- as to_tsvector('english', ...) gives them
    embedding vector(256) NOT NULL      -- what the word means, times its weight
);

-- A question's meaning is the direction of the sum of its words.  NULL when none of them is known.
CREATE FUNCTION meaning(question text) RETURNS vector LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT l2_normalize(sum(embedding)) FROM terms
    WHERE lexeme = ANY (tsvector_to_array(to_tsvector('english', question)))
$$;

-- As the corpus comes.
CREATE UNLOGGED TABLE passages (part text, chapter text, title text, page text, anchor text, body text, embedding vector(256));
CREATE UNLOGGED TABLE words (word text, embedding vector(256));
