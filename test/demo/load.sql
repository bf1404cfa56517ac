-- From the rows of corpus.sql.xz to the tables of the demo.
INSERT INTO manual (part, chapter, title, page, anchor, body, embedding)
SELECT part, chapter, title, page, anchor, body, l2_normalize(embedding) FROM passages;

-- Stemming differs a little between server versions: lexemes are made here.
INSERT INTO terms
SELECT lexeme[1], sum(embedding)
FROM (SELECT tsvector_to_array(to_tsvector('english', word)) AS lexeme, embedding FROM words) w
WHERE cardinality(lexeme) = 1
GROUP BY 1;

DROP TABLE passages, words;
CREATE INDEX ON manual USING gin (words);
CREATE INDEX ON manual (chapter);
VACUUM ANALYZE manual, terms;
