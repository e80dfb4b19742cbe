package journal

import "slices"

// addTo adds all that is noted to what the peer may lack.
func (o *noted) addTo(l *Lack) {
	o.hard.addTo(l)
	if o.soft != nil {
		o.soft.addTo(l)
	}
}

// Get says what the peer may lack of an object, all notes together. It does not
// know of objects that were born.
func (l *Lacks) Get(id FileID) (Lack, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lack := Lack{Tail: NoTail}
	for _, old := range l.olds {
		if o := old[id]; o != nil {
			o.addTo(&lack)
		}
	}
	if o := l.cur[id]; o != nil {
		o.addTo(&lack)
	}
	return lack, !lack.Empty()
}

// Each calls f for every object of which the peer may lack anything now, in no
// order, until f returns an error. Objects that were born are not among them.
// f may take its time and call whatever it likes: notes go on meanwhile, and
// those of objects that f has not seen yet may be part of what it sees.
func (l *Lacks) Each(f func(tree uint8, id FileID, lack Lack) error) error {
	l.mu.Lock()
	if err := l.failed(); err != nil {
		l.mu.Unlock()
		return err
	}
	generations := append(slices.Clone(l.olds), l.cur)
	for i, g := range generations {
	objects:
		for id, o := range g { // f runs in between: cur may grow, which a range over a map allows for
			for _, before := range generations[:i] {
				if before[id] != nil {
					continue objects
				}
			}
			lack := Lack{Tail: NoTail}
			for _, same := range generations[i:] {
				if o := same[id]; o != nil {
					o.addTo(&lack)
				}
			}
			if lack.Empty() { // its first note failed
				continue
			}
			l.mu.Unlock()
			if err := f(o.tree, id, lack); err != nil {
				return err
			}
			l.mu.Lock()
		}
	}
	l.mu.Unlock()
	return nil
}

// Len is about how many objects are noted, at once: one that was noted again since
// a rotation counts twice.
func (l *Lacks) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.cur)
	for _, old := range l.olds {
		n += len(old)
	}
	return n
}

// LacksStats counts what the peer may lack.
type LacksStats struct {
	Objects     int   // with any note
	Directories int   // with Names
	Files       int   // with Zones or a Tail
	Wholes      int   // noted as Whole
	Born        int   // known to this node only, and led to by the directories
	Zones       int64 // noted one by one
	Tails       int   // files that are noted from some zone on, which counts as one
	Bytes       int64 // Zones and Tails times the size of a zone: about what there is to compare
}

// Stats counts. It looks at every note: call it seldom.
func (l *Lacks) Stats() LacksStats {
	var s LacksStats
	// The only error is that of the store, and what is in memory counts no less.
	l.Each(func(_ uint8, _ FileID, lack Lack) error {
		s.Objects++
		if lack.Names {
			s.Directories++
		}
		if lack.Whole {
			s.Wholes++
			return nil
		}
		if lack.HasData() {
			s.Files++
		}
		if lack.Tail >= 0 {
			s.Tails++
		}
		if lack.Zones != nil {
			s.Zones += int64(lack.Zones.GetCardinality())
		}
		return nil
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Born = len(l.born)
	s.Bytes = mulClamped(s.Zones+int64(s.Tails), l.zoneSize)
	return s
}
