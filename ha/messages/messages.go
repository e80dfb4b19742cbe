package messages

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
)

// Language is one that the log can be shown in.
type Language uint8

// The languages.
const (
	English Language = iota
	French
)

// ParseLanguage takes what -l of the commands takes.
func ParseLanguage(s string) (Language, error) {
	switch s {
	case "en":
		return English, nil
	case "fr":
		return French, nil
	}
	return English, fmt.Errorf("no language %q: expected en or fr", s)
}

// FromEnv is the language that a locale asks for: the first of LC_ALL, LC_MESSAGES and
// LANG that is set decides (POSIX), English unless it is a French one.
func FromEnv(getenv func(string) string) Language {
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if v := getenv(name); v != "" {
			if v == "fr" || strings.HasPrefix(v, "fr_") || strings.HasPrefix(v, "fr.") {
				return French
			}
			return English
		}
	}
	return English
}

// message is one text; {} stands for what differs from line to line.
type message struct{ en, fr string }

const hole = "{}"

// Translate returns text in a language; as it is, if it is not in the catalogue.
func Translate(text string, l Language) string {
	if l == English {
		return text
	}
	for _, p := range patterns() {
		m := p.match.FindStringSubmatch(text)
		if m == nil {
			continue
		}
		out := p.fr
		for _, part := range m[1:] {
			before, after, _ := strings.Cut(out, hole)
			// Of what has been put in nothing is looked at again.
			out = before + strings.ReplaceAll(part, hole, "\x00") + after
		}
		return strings.ReplaceAll(out, "\x00", hole)
	}
	return text
}

// Known says whether the catalogue has the text.
func Known(text string) bool {
	for _, p := range patterns() {
		if p.match.MatchString(text) {
			return true
		}
	}
	return false
}

type pattern struct {
	match *regexp.Regexp
	fr    string
}

// patterns are the catalogue, made ready once; in its order, the first match counts.
var patterns = sync.OnceValue(func() []pattern {
	all := make([]pattern, len(catalogue))
	for i, m := range catalogue {
		quoted := regexp.QuoteMeta(m.en)
		all[i] = pattern{regexp.MustCompile("(?s)^" + strings.ReplaceAll(quoted, regexp.QuoteMeta(hole), "(.*?)") + "$"), m.fr}
	}
	return all
})
