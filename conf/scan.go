package conf

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxFile bounds what is read of a configuration file. Real ones have a few KiB.
const maxFile = 1 << 20

// maxDepth bounds how deep tags nest: the deepest of the guide has 7.
const maxDepth = 32

// A node is an element of a file that has been checked against its tag: its
// attributes are known and have valid values.
type node struct {
	tag      *tag
	pos      Pos
	values   map[string]value // those that stand in the file
	children []*node
	partial  bool // a tag in it was refused and is not among children
	text     body // of a tag that holds text
}

// A body is the text of an element, after expansion of entities and macros. at is the
// offset in the file of each of its bytes.
type body struct {
	text []byte
	at   []int
}

// A value is what an attribute is set to, after expansion of macros.
type value struct {
	text string
	pos  Pos
}

func (n *node) has(name string) bool { _, ok := n.values[name]; return ok }

// str returns an attribute's value, or its default.
func (n *node) str(name string) string {
	if v, ok := n.values[name]; ok {
		return v.text
	}
	return n.tag.attr(name).def
}

// at is the place of an attribute; of the tag when the attribute is absent.
func (n *node) at(name string) Pos {
	if v, ok := n.values[name]; ok {
		return v.pos
	}
	return n.pos
}

func (n *node) on(name string) bool { return n.str(name) == "on" }

// num returns a number; 0 when it is absent and has no default.
func (n *node) num(name string) int64 {
	i, _ := strconv.ParseInt(n.str(name), 0, 64) // checked by attr.check
	return i
}

func (n *node) dur(name string, unit time.Duration) time.Duration {
	return time.Duration(n.num(name)) * unit
}

// all returns the children with this tag.
func (n *node) all(tag string) []*node {
	var s []*node
	for _, c := range n.children {
		if c.tag.name == tag {
			s = append(s, c)
		}
	}
	return s
}

// one returns the child with this tag, nil if there is none.
func (n *node) one(tag string) *node {
	if s := n.all(tag); len(s) > 0 {
		return s[0]
	}
	return nil
}

// A scanner turns the text of a file into nodes and collects what is wrong.
type scanner struct {
	file  string
	src   []byte
	lines []int // offset of the first byte of each line
	dec   *xml.Decoder
	Problems
	mode   modes                           // of the module, once <service> has been read; 0: unknown
	expand func(string) (string, []string) // expands macros, and names those that are not defined; nil: no macros here
	opened func(*node)                     // sees each tag after its attributes have been read
}

// newScanner reads the whole file.
func newScanner(file string, r io.Reader) (*scanner, error) {
	src, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if len(src) > maxFile {
		return nil, fmt.Errorf("%s has more than %d bytes: this is no configuration file", file, maxFile)
	}
	s := &scanner{file: file}
	if s.src, err = toUTF8(src); err != nil {
		return nil, Problems{{Pos{file, 1, 1}, err.Error()}}
	}
	s.lines = []int{0}
	for i, b := range s.src {
		if b == '\n' {
			s.lines = append(s.lines, i+1)
		}
	}
	s.dec = xml.NewDecoder(bytes.NewReader(s.src))
	s.dec.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil } // toUTF8 has done it
	return s, nil
}

var encodingDecl = regexp.MustCompile(`^<\?xml[^>]*\sencoding\s*=\s*["']([^"']*)["']`)

// toUTF8 follows the encoding of the XML declaration. Modules of older products
// are often ISO-8859-1.
func toUTF8(src []byte) ([]byte, error) {
	src = bytes.TrimPrefix(src, []byte("\xef\xbb\xbf"))
	enc := "utf-8"
	if m := encodingDecl.FindSubmatch(src); m != nil {
		enc = strings.ToLower(string(m[1]))
	}
	switch enc {
	case "utf-8", "utf8", "us-ascii":
		if !utf8.Valid(src) {
			return nil, errors.New("the file is not UTF-8: save it as UTF-8, or name its encoding in an XML declaration (ISO-8859-1 is known)")
		}
		return src, nil
	case "iso-8859-1", "latin1", "windows-1252":
		r := make([]rune, len(src))
		for i, b := range src {
			r[i] = rune(b)
		}
		return []byte(string(r)), nil
	}
	return nil, fmt.Errorf("encoding %q is not known: expected UTF-8 or ISO-8859-1", enc)
}

// pos turns an offset into line and column.
func (s *scanner) pos(off int) Pos {
	off = min(max(off, 0), len(s.src))
	line, found := slices.BinarySearch(s.lines, off)
	if !found {
		line--
	}
	return Pos{s.file, line + 1, utf8.RuneCount(s.src[s.lines[line]:off]) + 1}
}

// document reads the file, whose outermost tag must be root. It returns nil when
// there is nothing that could be looked at further.
func (s *scanner) document(root *tag) *node {
	var n *node
	for {
		start := int(s.dec.InputOffset())
		tok, err := s.dec.Token()
		if err == io.EOF {
			if n == nil && len(s.Problems) == 0 {
				s.addf(s.pos(start), "the file is empty: expected <%s>", root.name)
			}
			return n
		}
		if err != nil {
			s.syntax(err)
			return nil
		}
		switch t := tok.(type) {
		case xml.StartElement:
			switch {
			case n != nil:
				s.addf(s.pos(start), "<%s> stands after the end of <%s>: expected the end of the file", t.Name.Local, root.name)
				return n
			case t.Name.Local != root.name:
				s.addf(s.pos(start), "<%s> is the outermost tag: expected <%s>", t.Name.Local, root.name)
				return nil
			}
			if n = s.element(root, t, start, 1); n == nil {
				return nil
			}
		case xml.CharData:
			s.noText(t, start)
		}
	}
}

// syntax reports text that is no XML. Nothing after it can be trusted.
func (s *scanner) syntax(err error) {
	text := err.Error()
	var se *xml.SyntaxError
	if errors.As(err, &se) {
		text = se.Msg
	}
	off := int(s.dec.InputOffset())
	pos := s.pos(off)
	if line := s.line(pos.Line); strings.ContainsAny(line, "”“’‘") {
		text += ": the line has typographic quotes; values stand between \" and \""
	}
	s.addf(pos, "not valid XML: %s", text)
}

func (s *scanner) line(n int) string {
	end := len(s.src)
	if n < len(s.lines) {
		end = s.lines[n]
	}
	return string(s.src[s.lines[n-1]:end])
}

// element checks the tag that start opens and everything in it. nil means that
// the XML broke off.
func (s *scanner) element(t *tag, start xml.StartElement, off, depth int) *node {
	n := &node{tag: t, pos: s.pos(off), values: map[string]value{}}
	s.attributes(n, start, off)
	if s.opened != nil {
		s.opened(n)
	}
	for {
		off := int(s.dec.InputOffset())
		tok, err := s.dec.Token()
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			s.syntax(err)
			return nil
		}
		switch tok := tok.(type) {
		case xml.EndElement:
			s.counts(n)
			return n
		case xml.CharData:
			if t.text {
				s.addText(&n.text, off, int(s.dec.InputOffset()))
			} else {
				s.noText(tok, off)
			}
		case xml.StartElement:
			c := t.child(tok.Name.Local)
			switch {
			case depth >= maxDepth:
				s.addf(s.pos(off), "tags are nested deeper than %d", maxDepth)
				return nil
			case c == nil:
				names := t.childNames()
				if len(names) == 0 {
					s.addf(s.pos(off), "<%s> cannot stand in <%s>, which holds no tags", tok.Name.Local, t.name)
				} else {
					s.addf(s.pos(off), "<%s> is not known in <%s>%s", tok.Name.Local, t.name, suggest("<"+tok.Name.Local+">", names))
				}
			case c.later:
				s.addf(s.pos(off), "<%s> is not supported by this version", c.name)
			case s.mode != 0 && c.modes != 0 && c.modes&s.mode == 0:
				s.addf(s.pos(off), "<%s> belongs to a %v module; this one has mode=%q", c.name, c.modes, s.mode)
			default:
				sub := s.element(c.tag, tok, off, depth+1)
				if sub == nil {
					return nil
				}
				n.children = append(n.children, sub)
				continue
			}
			n.partial = true
			if !s.skip() {
				return nil
			}
		}
	}
}

// skip passes over the rest of an element that has been refused.
func (s *scanner) skip() bool {
	for depth := 1; depth > 0; {
		tok, err := s.dec.Token()
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			s.syntax(err)
			return false
		}
		switch tok.(type) {
		case xml.StartElement:
			depth++
		case xml.EndElement:
			depth--
		}
	}
	return true
}

func (s *scanner) noText(t xml.CharData, off int) {
	if trimmed := bytes.TrimLeft(t, " \t\r\n"); len(trimmed) > 0 {
		word, _, _ := strings.Cut(string(bytes.TrimSpace(trimmed)), "\n")
		if r := []rune(word); len(r) > 30 {
			word = string(r[:30]) + "…"
		}
		s.addf(s.pos(off+len(t)-len(trimmed)), "text %q stands between tags: expected a tag or a comment", word)
	}
}

// addText appends the piece of text between two offsets of the file, which the XML
// decoder has accepted.
func (s *scanner) addText(b *body, from, to int) {
	raw := s.src[from:to]
	if inner, cdata := bytes.CutPrefix(raw, []byte("<![CDATA[")); cdata {
		s.addExpanded(b, bytes.TrimSuffix(inner, []byte("]]>")), from+len(raw)-len(inner))
		return
	}
	for len(raw) > 0 {
		end := bytes.IndexByte(raw, '&')
		if end < 0 {
			end = len(raw)
		}
		s.addExpanded(b, raw[:end], from)
		raw, from = raw[end:], from+end
		semicolon := bytes.IndexByte(raw, ';')
		if semicolon < 0 {
			continue // raw is empty: the decoder accepts no & without it
		}
		var char string
		if xml.Unmarshal(slices.Concat([]byte("<a>"), raw[:semicolon+1], []byte("</a>")), &char) == nil {
			b.add(char, from, 0)
		}
		raw, from = raw[semicolon+1:], from+semicolon+1
	}
}

// addExpanded appends text without entities.
func (s *scanner) addExpanded(b *body, raw []byte, from int) {
	done := 0
	for _, use := range macroUse.FindAllIndex(raw, -1) {
		if s.expand == nil {
			break
		}
		b.add(string(raw[done:use[0]]), from+done, 1)
		v, missing := s.expand(string(raw[use[0]:use[1]]))
		for _, m := range missing {
			s.addf(s.pos(from+use[0]), "%%%s%% is neither a <macro> above nor an environment variable", m)
		}
		b.add(v, from+use[0], 0)
		done = use[1]
	}
	b.add(string(raw[done:]), from+done, 1)
}

// add appends text whose first byte stands at from in the file, and the next ones
// step bytes after the one before.
func (b *body) add(text string, from, step int) {
	for i := range len(text) {
		b.text, b.at = append(b.text, text[i]), append(b.at, from+i*step)
	}
}

// pos is the place of a byte of the text, in the file; end is where it ends.
func (b *body) pos(s *scanner, offset int, end Pos) Pos {
	if offset < 0 || offset >= len(b.at) {
		if len(b.at) > 0 {
			return s.pos(b.at[len(b.at)-1] + 1)
		}
		return end
	}
	return s.pos(b.at[offset])
}

func (s *scanner) attributes(n *node, start xml.StartElement, off int) {
	places := attrOffsets(s.src[off:int(s.dec.InputOffset())])
	for i, a := range start.Attr {
		pos := n.pos
		if i < len(places) {
			pos = s.pos(off + places[i])
		}
		spec := n.tag.attr(a.Name.Local)
		if spec == nil || a.Name.Space != "" {
			s.addf(pos, "<%s> has no attribute %s%s", n.tag.name, a.Name.Local, suggest(a.Name.Local, n.tag.attrNames()))
			continue
		}
		if n.has(spec.name) {
			s.addf(pos, "%s is set twice in <%s>", spec.name, n.tag.name)
			continue
		}
		v := a.Value
		if s.expand != nil {
			var missing []string
			v, missing = s.expand(v)
			for _, m := range missing {
				s.addf(pos, "%%%s%% in %s is neither a <macro> above nor an environment variable", m, spec.name)
			}
			if len(missing) > 0 {
				n.values[spec.name] = value{spec.def, pos}
				continue
			}
		}
		if what := spec.check(v); what != "" {
			s.addf(pos, "%s", what)
			v = spec.def
		}
		if s.mode != 0 && spec.modes != 0 && spec.modes&s.mode == 0 {
			s.addf(pos, "%s belongs to a %v module; this one has mode=%q", spec.name, spec.modes, s.mode)
		}
		n.values[spec.name] = value{v, pos}
	}
	for i := range n.tag.attrs {
		if a := &n.tag.attrs[i]; a.must && !n.has(a.name) {
			s.addf(n.pos, "<%s> lacks attribute %s", n.tag.name, a.name)
		}
	}
}

// counts checks how often each child stands in a tag.
func (s *scanner) counts(n *node) {
	for i := range n.tag.children {
		c := &n.tag.children[i]
		got := n.all(c.name)
		if len(got) < c.min && !n.partial {
			s.addf(n.pos, "<%s> holds %d <%s>: expected at least %d", n.tag.name, len(got), c.name, c.min)
		}
		if c.max > 0 && len(got) > c.max {
			s.addf(got[c.max].pos, "<%s> stands more than once in <%s>: expected %d", c.name, n.tag.name, c.max)
		}
	}
}

// attrOffsets finds where the attributes start in the text of an opening tag,
// which the XML decoder has accepted.
func attrOffsets(raw []byte) []int {
	var offs []int
	space := func(b byte) bool { return b == ' ' || b == '\t' || b == '\r' || b == '\n' }
	i := 0
	for i < len(raw) && !space(raw[i]) && raw[i] != '>' {
		i++
	}
	for i < len(raw) {
		for i < len(raw) && space(raw[i]) {
			i++
		}
		if i >= len(raw) || raw[i] == '>' || raw[i] == '/' {
			break
		}
		offs = append(offs, i)
		q := bytes.IndexAny(raw[i:], `"'`)
		if q < 0 {
			break
		}
		i += q
		end := bytes.IndexByte(raw[i+1:], raw[i])
		if end < 0 {
			break
		}
		i += end + 2
	}
	return offs
}
