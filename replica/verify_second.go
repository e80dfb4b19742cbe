package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/skfs/skfs/journal"
	"github.com/skfs/skfs/reintegrate"
)

// Refusals of Verify.
var (
	errNotSecond      = errors.New("this node is not SECOND and up to date: ask the node that is SECOND green")
	errVerifyUnderWay = errors.New("a verification is under way already")
)

// verifyPoll is how often a repair looks whether the second is in sync again.
const verifyPoll = 100 * time.Millisecond

// Verify compares the data of this host, which is a second in sync, with the
// primary's, and tells report what it finds, one line at a time; the last is a
// summary. With repair what differs is copied again, and Verify returns when this
// host is in sync. It ends early when ctx does or report returns an error.
func (r *Replica) Verify(ctx context.Context, repair bool, report func(VerifyLine) error) error {
	r.verifying.mu.Lock()
	busy := r.verifying.asked
	r.verifying.asked = true
	r.verifying.mu.Unlock()
	if busy {
		return errVerifyUnderWay
	}
	sum, err := r.askVerify(ctx, repair, report)
	r.verifying.mu.Lock()
	r.verifying.asked = false // before the client hears of the end
	r.verifying.mu.Unlock()
	if err != nil {
		return err
	}
	return report(VerifyLine{Summary: sum})
}

func (r *Replica) askVerify(ctx context.Context, repair bool, report func(VerifyLine) error) (*VerifySummary, error) {
	r.mu.Lock()
	f, epoch := r.follow, r.state.Epoch
	ready := !r.prim && f != nil && !f.void && r.synced && f.joined.Load()
	r.mu.Unlock()
	if !ready {
		return nil, errNotSecond
	}
	session := f.recv.Load()
	link, welcome, err := r.joinVerify(ctx, f.addr, epoch, repair)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a := &verifyApplier{r: r, report: report, fail: cancel}
	var readers []reintegrate.Reader
	for _, x := range r.trees {
		readers = append(readers, reader{sink{x.Tree()}})
	}
	a.target = reintegrate.NewVerifyTarget(readers)
	err = journal.NewReceiver(link, a, journal.ReceiverOptions{Epoch: welcome.Epoch}).Run(ctx)
	switch sum := a.summary; {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case sum == nil:
		return nil, fmt.Errorf("verification: %w", err)
	case sum.Error != "":
		return nil, fmt.Errorf("on the primary: %s", sum.Error)
	case sum.Noted > 0:
		if err := r.awaitSync(ctx, session); err != nil {
			return nil, err
		}
		sum.Mended = true
	}
	return a.summary, nil
}

// joinVerify opens a stream for a verification.
func (r *Replica) joinVerify(ctx context.Context, addr string, epoch journal.Epoch, repair bool) (*journal.Link, journal.Welcome, error) {
	payload, err := json.Marshal(greeting{Epoch: epoch, Verify: &verifyRequest{Repair: repair}})
	if err != nil {
		return nil, journal.Welcome{}, err
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return dialer.DialContext(ctx, "tcp", addr)
	}
	return journal.Join(ctx, dial, journal.Hello{Module: r.cfg.Module, Node: r.cfg.Node, Epoch: epoch, Payload: payload}, 1)
}

// awaitSync waits until this host is in sync again, after the session that ends.
func (r *Replica) awaitSync(ctx context.Context, session *journal.Receiver) error {
	tick := time.NewTicker(verifyPoll)
	defer tick.Stop()
	for {
		r.mu.Lock()
		f, prim := r.follow, r.prim
		synced := r.synced && f != nil && f.joined.Load() && f.recv.Load() != session
		r.mu.Unlock()
		switch {
		case prim:
			return errors.New("repair: this node has become the primary before its data was mended")
		case synced:
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("repair: what differs is noted on the primary and is copied when this node joins it again: %w", context.Cause(ctx))
		}
	}
}

// verifyApplier is this second's end of a verification.
type verifyApplier struct {
	r      *Replica
	target *reintegrate.VerifyTarget
	report func(VerifyLine) error
	fail   context.CancelCauseFunc

	mu      sync.Mutex // held while report is called
	summary *VerifySummary
}

// Apply implements journal.Applier.
func (a *verifyApplier) Apply(op *journal.Op) journal.Result {
	if op.Kind != journal.KindMark {
		return a.target.Apply(op)
	}
	if err := a.mark(op); err != nil {
		a.fail(err)
		return journal.Result{Seq: op.Seq, Errno: syscall.ECANCELED}
	}
	return journal.Result{Seq: op.Seq}
}

func (a *verifyApplier) mark(op *journal.Op) error {
	var line VerifyLine
	var err error
	switch op.Flags {
	case verifyDiffers:
		if err = json.Unmarshal(op.Data, &line.Difference); err == nil && int(line.Difference.Tree) < len(a.r.trees) {
			line.Difference.Path = filepath.Join(a.r.trees[line.Difference.Tree].Tree().Dir(), line.Difference.Path)
		}
	case verifyProgress:
		err = json.Unmarshal(op.Data, &line.Progress)
	case verifySummary:
		err = json.Unmarshal(op.Data, &line.Summary)
	case verifyPrepare:
		// The delta to come must not take for an object what is only kept by a
		// descriptor of this process.
		for _, f := range a.r.trees {
			f.Tree().ForgetDeleted()
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("verification: %w: do both nodes run the same version?", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if line.Summary != nil {
		a.summary = line.Summary
		return nil
	}
	return a.report(line)
}

// serveVerify streams what a verification finds to the client that asked for it.
func (r *Replica) serveVerify(ctx context.Context, c net.Conn, enc *json.Encoder, repair bool) {
	ctx, cancel := context.WithCancelCause(ctx)
	gone := make(chan struct{})
	go func() { // the client says nothing more; this notices its end
		defer close(gone)
		c.Read(make([]byte, 1))
		cancel(errors.New("the client went away"))
	}()
	if err := r.Verify(ctx, repair, func(l VerifyLine) error { return enc.Encode(l) }); err != nil {
		enc.Encode(VerifyLine{Summary: &VerifySummary{Error: err.Error()}})
	}
	c.Close()
	<-gone
}

// Verify asks a second that is in sync to compare its data with the primary's, and
// with repair to have mended what differs. It calls report for each difference and
// about once a second for the progress.
func (c *Client) Verify(ctx context.Context, repair bool, report func(VerifyLine)) (VerifySummary, error) {
	conn, err := dialer.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return VerifySummary{}, fmt.Errorf("replica: verify: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if err := json.NewEncoder(conn).Encode(request{Method: "verify", Repair: repair}); err != nil {
		return VerifySummary{}, fmt.Errorf("replica: verify: %w", err)
	}
	for dec := json.NewDecoder(conn); ; {
		var l VerifyLine
		if err := dec.Decode(&l); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return VerifySummary{}, fmt.Errorf("replica: verify: %w", err)
		}
		switch {
		case l.Summary == nil:
			report(l)
		case l.Summary.Error != "":
			return *l.Summary, errors.New(l.Summary.Error)
		default:
			return *l.Summary, nil
		}
	}
}
