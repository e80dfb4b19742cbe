package web

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/skfs/skfs/ha"
)

// rules answers what the failover rules of a module come to now.
func (s *Server) rules(w http.ResponseWriter, r *http.Request) error {
	am := r.PathValue("am")
	if err := s.known(am); err != nil {
		return err
	}
	v, err := s.o.Supervisor.Rules(r.Context(), am)
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, v)
	return nil
}

// history streams the changes of a module's resources: those of ?name=, since ?since=.
func (s *Server) history(w http.ResponseWriter, r *http.Request) error {
	am := r.PathValue("am")
	if err := s.known(am); err != nil {
		return err
	}
	q := r.URL.Query()
	var since time.Time
	if text := q.Get("since"); text != "" {
		var err error
		if since, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return badRequest{fmt.Errorf("since=%q: expected a time as RFC 3339 has it", text)}
		}
	}
	out := newStream(w)
	err := s.o.Supervisor.History(r.Context(), am, q.Get("name"), since, func(c ha.Change) error { return out.put(c) })
	if err != nil && r.Context().Err() == nil {
		s.o.Errors.Printf("history of %s: %v", am, err)
	}
	return nil // the answer has begun
}

// Rules returns what the failover rules of a module come to now.
func (c *Client) Rules(ctx context.Context, am string) (ha.RulesView, error) {
	var v ha.RulesView
	return v, c.call(ctx, "GET", modulePath(am, "rules"), nil, &v)
}

// History calls each with the changes of a module's resources since a time, oldest
// first; name "" is all of them.
func (c *Client) History(ctx context.Context, am, name string, since time.Time, each func(ha.Change) error) error {
	q := url.Values{"name": {name}}
	if !since.IsZero() {
		q.Set("since", since.Format(time.RFC3339Nano))
	}
	return receive(ctx, c, modulePath(am, "history")+"?"+q.Encode(), each)
}
