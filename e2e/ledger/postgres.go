package ledger

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// PostgresPort is where the server listens.
const PostgresPort = "5432"

const (
	postgresPatience = 2 * time.Second  // for one transaction
	queryPatience    = 60 * time.Second // for the questions of CheckPostgres

	protocolVersion = 3 << 16
	accounts        = 10 // rows that every transaction competes for
)

// PostgresSchema makes the tables of the ledger.
const PostgresSchema = `CREATE TABLE entry (id bigint PRIMARY KEY);
CREATE TABLE account (id int PRIMARY KEY, n bigint NOT NULL);
INSERT INTO account SELECT i, 0 FROM generate_series(0, 9) i;`

// postgres speaks as much of PostgreSQL's protocol as the ledger needs: a start
// without password and simple queries
// (https://www.postgresql.org/docs/current/protocol-flow.html).
type postgres struct {
	conn net.Conn
	in   *bufio.Reader
}

// startPostgres opens a session as the user postgres. It owns c.
func startPostgres(c net.Conn) (*postgres, error) {
	p := &postgres{conn: c, in: bufio.NewReader(c)}
	body := binary.BigEndian.AppendUint32(nil, protocolVersion)
	body = append(body, "user\x00postgres\x00database\x00postgres\x00\x00"...)
	c.SetDeadline(time.Now().Add(postgresPatience))
	_, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...))
	if err == nil {
		_, err = p.ready()
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return p, nil
}

// query runs SQL and returns the first column of its rows.
func (p *postgres) query(sql string, patience time.Duration) ([]string, error) {
	message := binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(len(sql)+5))
	message = append(append(message, sql...), 0)
	p.conn.SetDeadline(time.Now().Add(patience))
	if _, err := p.conn.Write(message); err != nil {
		return nil, err
	}
	return p.ready()
}

// ready reads messages until the server is ready for the next query.
func (p *postgres) ready() (rows []string, err error) {
	for {
		kind, err := p.in.ReadByte()
		if err != nil {
			return nil, err
		}
		var size uint32
		if err := binary.Read(p.in, binary.BigEndian, &size); err != nil {
			return nil, err
		}
		if size < 4 || size > 1<<24 {
			return nil, fmt.Errorf("message %q of %d bytes", kind, size)
		}
		body := make([]byte, size-4)
		if _, err := io.ReadFull(p.in, body); err != nil {
			return nil, err
		}
		switch kind {
		case 'Z':
			return rows, nil
		case 'E':
			return nil, refusal(errorText(body))
		case 'R':
			if len(body) < 4 || binary.BigEndian.Uint32(body) != 0 {
				return nil, fmt.Errorf("the server wants a password")
			}
		case 'D':
			column, err := firstColumn(body)
			if err != nil {
				return nil, err
			}
			rows = append(rows, column)
		}
	}
}

// errorText is the message among the fields of an ErrorResponse.
func errorText(body []byte) string {
	for _, field := range bytes.Split(body, []byte{0}) {
		if len(field) > 0 && field[0] == 'M' {
			return string(field[1:])
		}
	}
	return "error without a message"
}

func firstColumn(body []byte) (string, error) {
	if len(body) < 6 {
		return "", fmt.Errorf("row of %d bytes", len(body))
	}
	n := int32(binary.BigEndian.Uint32(body[2:]))
	if n < 0 || int(n) > len(body)-6 {
		return "", fmt.Errorf("column of %d bytes in a row of %d", n, len(body))
	}
	return string(body[6 : 6+n]), nil
}

// put adds the entry and counts it, in one transaction.
func (p *postgres) put(id uint64) error {
	_, err := p.query(fmt.Sprintf("BEGIN; INSERT INTO entry VALUES (%d); UPDATE account SET n = n + 1 WHERE id = %d; COMMIT", id, id%accounts), postgresPatience)
	return err
}

func (p *postgres) close() error { return p.conn.Close() }

// CheckPostgres compares what a server has with the notes of what was
// acknowledged, and the entries with the counts that the same transactions kept.
func CheckPostgres(addr, notes string) (Verdict, error) {
	var v Verdict
	c, err := net.DialTimeout("tcp", addr, queryPatience)
	if err != nil {
		return v, fmt.Errorf("ledger: %w", err)
	}
	p, err := startPostgres(c)
	if err != nil {
		return v, fmt.Errorf("ledger: %s: %w", addr, err)
	}
	defer p.close()
	// One statement sees one snapshot.
	sums, err := p.query("SELECT (SELECT count(*) FROM entry) - (SELECT sum(n) FROM account)", queryPatience)
	if err != nil || len(sums) != 1 || sums[0] != "0" {
		return v, fmt.Errorf("ledger: entries less counts are %q, expected 0: %w", sums, err)
	}
	ids, err := p.query("SELECT id FROM entry", queryPatience)
	if err != nil {
		return v, fmt.Errorf("ledger: entries: %w", err)
	}
	found := make(map[uint64]bool, len(ids))
	for _, text := range ids {
		id, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return v, fmt.Errorf("ledger: entries: %w", err)
		}
		found[id] = true
	}
	return compare(found, notes)
}
