package lab

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CanSetClock says whether SetClock works here.
const CanSetClock = runtime.GOARCH == "amd64"

// SetClock makes a process see a wall clock that differs from the machine's by that
// much, in whole seconds, until it is set again; its monotonic clocks go on as they
// were. The process must ask the vDSO for the time, as Go programs do: it is that
// process's copy of the code which is changed, as a debugger sets a breakpoint.
// What the process starts later sees the machine's clock, as do its files: their
// times come from the kernel.
func (p Process) SetClock(by time.Duration) error {
	if !CanSetClock {
		return fmt.Errorf("lab: clock of process %d: not written for %s", p.PID, runtime.GOARCH)
	}
	if err := p.setClock(int64(by / time.Second)); err != nil {
		return fmt.Errorf("lab: clock of process %d: %w", p.PID, err)
	}
	return nil
}

func (p Process) setClock(seconds int64) error {
	text, err := p.vdso()
	if err != nil {
		return err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", p.PID), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	at, err := clockGettime(mem, text)
	if err != nil {
		return err
	}
	// The code changes while nobody is in it.
	ctx, stop := context.WithTimeout(context.Background(), clockPatience)
	defer stop()
	for {
		busy, err := p.stoppedIn(ctx, text)
		if err == nil && !busy {
			_, err = mem.WriteAt(clockStub(seconds), at)
		}
		err = errors.Join(err, unix.Kill(p.PID, unix.SIGCONT))
		if err == nil && busy {
			err = ctx.Err()
		}
		if err != nil || !busy {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

const clockPatience = 10 * time.Second

// clockStub is clock_gettime(2) of the vDSO without what makes it fast:
//
//	mov  $228, %eax            SYS_clock_gettime
//	syscall
//	test %edi, %edi            CLOCK_REALTIME is 0
//	jnz  end
//	movabs $seconds, %rcx
//	add  %rcx, (%rsi)          tv_sec
//	end: ret
func clockStub(seconds int64) []byte {
	b := []byte{0xb8, 228, 0, 0, 0, 0x0f, 0x05, 0x85, 0xff, 0x75, 13, 0x48, 0xb9}
	b = binary.LittleEndian.AppendUint64(b, uint64(seconds))
	return append(b, 0x48, 0x01, 0x0e, 0xc3)
}

// span is a part of an address space.
type span struct{ from, to uint64 }

// vdso finds the code that the kernel gives to a process.
func (p Process) vdso() (span, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.PID))
	if err != nil {
		return span{}, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(maps)); lines.Scan(); {
		var s span
		if strings.HasSuffix(lines.Text(), " [vdso]") {
			if _, err := fmt.Sscanf(lines.Text(), "%x-%x", &s.from, &s.to); err != nil {
				return span{}, fmt.Errorf("maps: %q: %w", lines.Text(), err)
			}
			return s, nil
		}
	}
	return span{}, errors.New("it has no vDSO")
}

// clockGettime finds where the function of the vDSO is, and that it has room for
// clockStub.
func clockGettime(mem *os.File, text span) (int64, error) {
	image := make([]byte, text.to-text.from)
	if _, err := mem.ReadAt(image, int64(text.from)); err != nil {
		return 0, fmt.Errorf("read the vDSO: %w", err)
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, fmt.Errorf("vDSO: %w", err)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return 0, fmt.Errorf("vDSO: %w", err)
	}
	const name = "__vdso_clock_gettime"
	for _, s := range symbols {
		if s.Name != name {
			continue
		}
		if need := len(clockStub(0)); s.Size < uint64(need) {
			return 0, fmt.Errorf("%s of the vDSO has %d bytes, expected %d at least", name, s.Size, need)
		}
		return int64(text.from + s.Value), nil
	}
	return 0, fmt.Errorf("the vDSO has no %s", name)
}

// stoppedIn stops a process, and says whether a thread of it is stopped in code.
func (p Process) stoppedIn(ctx context.Context, code span) (bool, error) {
	if err := unix.Kill(p.PID, unix.SIGSTOP); err != nil {
		return false, err
	}
	for {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", p.PID))
		if err != nil {
			return false, err
		}
		running, within := false, false
		for _, t := range threads {
			pc, stopped, err := counter(t)
			if err != nil {
				return false, err
			}
			running = running || !stopped
			within = within || stopped && pc >= code.from && pc < code.to
		}
		if !running {
			return within, nil
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("it does not stop outside of the vDSO: %w", ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// counter reads where a thread goes on: /proc/PID/task/TID/syscall is "running", or
// numbers of which that is the last.
func counter(file string) (pc uint64, stopped bool, err error) {
	state, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0, true, nil // it has ended
	}
	if err != nil {
		return 0, false, err
	}
	fields := strings.Fields(string(state))
	if len(fields) < 3 {
		return 0, false, nil
	}
	if pc, err = strconv.ParseUint(fields[len(fields)-1], 0, 64); err != nil {
		err = fmt.Errorf("%s: %q: %w", file, state, err)
	}
	return pc, true, err
}
