package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skfs/skfs/e2e/pair"
)

// §13.6.4.5: the second compares itself with the primary while that writes, and a
// repair mends what somebody did to the second's files behind skfs's back.
func TestVerifyAndRepair(t *testing.T) {
	p := started(t, application)
	s := begin(t, p)
	ctx, stop := context.WithCancel(context.Background())
	written := make(chan error, 1)
	go func() {
		var err error
		for i := 0; ctx.Err() == nil && err == nil; i++ {
			err = os.WriteFile(p.Nodes[0].Path(fmt.Sprint("/replicated/busy", i%50)), bytes.Repeat([]byte{byte(i)}, 10_000), 0o644)
		}
		written <- err
	}()
	if err := os.WriteFile(p.Nodes[0].Path("/replicated/precious"), []byte("the right content"), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(i, want int, command string, says ...string) {
		t.Helper()
		ctx, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		out, err := p.Nodes[i].Skfs(ctx, command, "-m", pair.Module)
		code := 0
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			code = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if code != want {
			t.Errorf("%s on %s ends with %d, expected %d: %s", command, p.Nodes[i].Name(), code, want, out)
		}
		for _, text := range says {
			if !strings.Contains(out, text) {
				t.Errorf("%s on %s says %q, expected %q", command, p.Nodes[i].Name(), out, text)
			}
		}
	}
	run(0, 2, "rfsverify", "ask the node that is SECOND green")
	for range 5 {
		run(1, 0, "rfsverify", "no difference")
	}
	below, err := p.Nodes[1].Backing("/replicated")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(below, "precious"), []byte("the wrong content"), 0o644); err != nil {
		t.Fatal(err)
	}
	run(1, 1, "rfsverify", "/replicated/precious: data")
	run(1, 1, "repair", "/replicated/precious: data", "which have been repaired")
	s.await("PRIM", "SECOND")
	run(1, 0, "rfsverify", "no difference")
	stop()
	if err := <-written; err != nil {
		t.Errorf("the application: %v", err)
	}
	same(t, p)
}
