package ha

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares data with testdata/name.
func golden(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, want) {
		t.Errorf("%s: the format has changed: give it a new version\n%s", path, cmp.Diff(string(want), string(data)))
	}
}

// fill gives every field of a struct a value of its own that is not zero.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(int64(*n), 0).UTC()))
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("json") != "-" {
				fill(v.Field(i), n)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), n)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, n)
		fill(value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("s" + string(rune('a'+*n%26)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint8:
		v.SetUint(uint64(*n%3 + 1))
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	default:
		panic(v.Kind())
	}
}

func sampleMessage() message {
	var m message
	n := 0
	fill(reflect.ValueOf(&m).Elem(), &n)
	m.Beat.HearsMe = false // not on the wire: the receiver knows
	m.Beat.Rank = -3
	return m
}

func TestMessageRoundTrip(t *testing.T) {
	m := sampleMessage()
	got, err := decodeMessage(m.encode())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(m, got); d != "" {
		t.Error(d)
	}
	golden(t, "heartbeat.hex", []byte(hex.Dump(m.encode())))
	// Each flag is its own.
	for i := range m.Beat.flags() {
		one := message{Module: "m", Node: "n", Beat: Beat{Known: true}}
		*one.Beat.flags()[i] = true
		if got, err := decodeMessage(one.encode()); err != nil || got != one {
			t.Errorf("flag %d: %+v %v", i, got, err)
		}
	}
}

// The seal finds what was changed on the way; a codec that is given something else
// says so.
func TestMessageDamaged(t *testing.T) {
	m := sampleMessage()
	good := m.encode()
	if len(good) > beatMax {
		t.Errorf("%d bytes, beatMax is %d", len(good), beatMax)
	}
	for i := range good {
		if _, err := decodeMessage(good[:i]); err == nil {
			t.Fatalf("the first %d bytes were taken", i)
		}
	}
	if _, err := decodeMessage(append(bytes.Clone(good), 0)); err == nil {
		t.Fatal("a byte too many was taken")
	}
	for _, at := range []int{0, 4, 6, 32, 33, 34} {
		bad := bytes.Clone(good)
		bad[at] ^= 0xff
		if got, err := decodeMessage(bad); err == nil {
			t.Fatalf("byte %d: taken as %+v", at, got)
		}
	}
}

func FuzzMessage(f *testing.F) {
	m := sampleMessage()
	f.Add(m.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMessage(b)
		if err == nil && !bytes.Equal(m.encode(), b) {
			t.Errorf("%x is taken as %+v, which is written differently", b, m)
		}
	})
}

func sampleSaved() saved {
	var s saved
	n := 0
	fill(reflect.ValueOf(&s).Elem(), &n)
	return s
}

func TestSavedRoundTrip(t *testing.T) {
	s := sampleSaved()
	data := encodeSaved(s)
	got, err := decodeSaved(data)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(s, got); d != "" {
		t.Error(d)
	}
	golden(t, "ha.state", data)
	for _, earlier := range []string{"testdata/ha.state.1", "testdata/ha.state.2", "testdata/ha.state.3", "testdata/ha.state.4"} {
		if _, err := readSaved(earlier); err != nil {
			t.Errorf("what an earlier version wrote: %v", err)
		}
	}
}

func TestSavedDamaged(t *testing.T) {
	good := encodeSaved(sampleSaved())
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if _, err := decodeSaved(bad); err == nil {
			t.Fatalf("byte %d changed from %q to %q: taken", i, good[i], bad[i])
		}
		if _, err := decodeSaved(good[:i]); err == nil {
			t.Fatalf("the first %d bytes were taken", i)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/ha.state", good[:20], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readSaved(dir + "/ha.state"); err == nil || !strings.Contains(err.Error(), dir+"/ha.state") {
		t.Errorf("the error does not name the file: %v", err)
	}
}

func FuzzSaved(f *testing.F) {
	f.Add(encodeSaved(sampleSaved()))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSaved(b)
		if err != nil {
			return
		}
		if again, err := decodeSaved(encodeSaved(s)); err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%q does not survive: %v", b, err)
		}
	})
}

func TestNames(t *testing.T) {
	for r := RoleUnknown; r < roleEnd; r++ {
		text, _ := r.MarshalText()
		var back Role
		if err := back.UnmarshalText(text); err != nil || back != r {
			t.Errorf("role %d: %q %v", r, text, err)
		}
	}
	for c := Grey; c < colourEnd; c++ {
		text, _ := c.MarshalText()
		var back Colour
		if err := back.UnmarshalText(text); err != nil || back != c {
			t.Errorf("colour %d: %q %v", c, text, err)
		}
	}
	for l := LevelEvent; l <= LevelDebug; l++ {
		text, _ := l.MarshalText()
		var back Level
		if err := back.UnmarshalText(text); err != nil || back != l {
			t.Errorf("level %d: %q %v", l, text, err)
		}
	}
	if _, err := ParseRole("SECONDARY"); err == nil {
		t.Error("SECONDARY is taken as a role")
	}
}

// Of the two files the newer counts, and what was not flushed only in its own boot.
func TestNewestSaved(t *testing.T) {
	write := func(path string, serial uint64, boot string) {
		t.Helper()
		if err := os.WriteFile(path, encodeSaved(saved{Serial: serial, Boot: boot, State: State{Role: RoleStop}}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		state, run uint64
		boot       string // of both
		want       uint64
	}{{1, 2, "now", 2}, {3, 2, "now", 3}, {1, 2, "before", 1}} {
		path := filepath.Join(t.TempDir(), "ha.state")
		write(path, c.state, c.boot)
		if s, err := readNewest(path, "now"); err != nil || s.Serial != c.state {
			t.Errorf("%+v, the one alone: %d %v", c, s.Serial, err)
		}
		write(runSaved(path), c.run, c.boot)
		if s, err := readNewest(path, "now"); err != nil || s.Serial != c.want {
			t.Errorf("%+v: %d %v", c, s.Serial, err)
		}
		if err := os.WriteFile(runSaved(path), nil, 0o600); err != nil { // never flushed
			t.Fatal(err)
		}
		if s, err := readNewest(path, "now"); (err == nil) != (c.boot == "before") || err == nil && s.Serial != c.state {
			t.Errorf("%+v, an empty one: %d %v", c, s.Serial, err)
		}
	}
}

// A module that starts, restarts and stops flushes its state a few times only: what a
// start of the host would forget needs no flush.
func TestLasting(t *testing.T) {
	s := State{Role: RoleStop, Conf: Conf{MaxLoop: 3}, Links: []Link{LinkUp}}
	running := s
	running.Role, running.Colour, running.Up, running.Live = RoleAlone, Green, PartPrim, PartPrim
	running.Plan, running.TaskID = []Task{{Kind: TaskStatus}}, 7
	stopping := running
	stopping.Plan, stopping.Live, stopping.TaskID = nil, 0, 9
	if running.lasting() != stopping.lasting() {
		t.Error("scripts that begin and end are flushed")
	}
	for what, change := range map[string]func(*State){
		"that it runs": func(s *State) { s.Role = RoleStop }, "its epoch": func(s *State) { s.Epoch++ },
		"what it conceded": func(s *State) { s.Outdated.N++ }, "that it was primary": func(s *State) { s.Role = RoleSecond },
		"a loop": func(s *State) { s.Loops++ }, "failover": func(s *State) { s.Settings.Failover = "off" },
		"that it starts after a reboot": func(s *State) { s.Rebooted = true },
	} {
		other := running
		change(&other)
		if other.lasting() == running.lasting() {
			t.Errorf("%s is not flushed", what)
		}
	}
}
