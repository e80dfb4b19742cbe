package rules

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// kind is what a token is.
type kind uint8

const (
	tokEnd    kind = iota
	tokWord        // a name, a resource or a keyword
	tokQuoted      // "text"; text is without the quotes
	tokSign        // one of signs
	tokWrong       // what cannot be; text says why
)

// token is a word of the language. Offset is that of its first byte.
type token struct {
	kind   kind
	text   string
	offset int
}

// signs, the longer ones first.
var signs = []string{"==", "!=", "&&", "||", "(", ")", "!", "=", ":", ";"}

// lexer cuts a text into tokens.
type lexer struct {
	src string
	at  int
}

// wordByte says that c may stand in a word. A colon may where a resource is
// expected: IPv6 addresses are names of resources.
func wordByte(c byte, colon bool) bool {
	return c == '_' || c == '.' || c == '-' || c == '%' || c == '@' || c == '*' || c == '?' || c == ':' && colon ||
		c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// next reads a token.
func (l *lexer) next(colon bool) token {
	if wrong, ok := l.space(); ok {
		return wrong
	}
	start := l.at
	if start == len(l.src) {
		return token{tokEnd, "", start}
	}
	rest := l.src[start:]
	if rest[0] == '"' {
		end := strings.IndexAny(rest[1:], "\"\n")
		if end < 0 || rest[1+end] == '\n' {
			l.at = len(l.src)
			if end >= 0 {
				l.at = start + 1 + end
			}
			return token{tokWrong, `a text begins with " and does not end on its line`, start}
		}
		l.at += end + 2
		return token{tokQuoted, rest[1 : 1+end], start}
	}
	for _, s := range signs {
		if strings.HasPrefix(rest, s) && !(s == ":" && colon) {
			l.at += len(s)
			return token{tokSign, s, start}
		}
	}
	for l.at < len(l.src) && (wordByte(l.src[l.at], colon) || l.slash()) {
		l.at++
	}
	if l.at > start {
		return token{tokWord, l.src[start:l.at], start}
	}
	r, n := utf8.DecodeRuneInString(rest)
	l.at += n
	return token{tokWrong, wrongSign(rest, r), start}
}

// slash says that a "/" here belongs to a word and begins no comment.
func (l *lexer) slash() bool {
	return l.src[l.at] == '/' && l.at+1 < len(l.src) && l.src[l.at+1] != '/' && l.src[l.at+1] != '*'
}

func wrongSign(rest string, r rune) string {
	switch {
	case strings.ContainsRune("“”„‘’'", r):
		return fmt.Sprintf("%q is no quote of this language: text stands between \" and \"", r)
	case r == '&' || r == '|':
		return fmt.Sprintf("%q alone means nothing: expected %q", r, strings.Repeat(string(r), 2))
	case r == '<' || r == '>':
		return fmt.Sprintf("%q: resources are compared with == and != only", r)
	case r == utf8.RuneError:
		return "the text is not UTF-8"
	}
	return fmt.Sprintf("%q cannot stand here", r)
}

// space passes over space and comments; ok says that one of them does not end.
func (l *lexer) space() (wrong token, ok bool) {
	for l.at < len(l.src) {
		rest := l.src[l.at:]
		switch {
		case strings.IndexByte(" \t\r\n\f\v", rest[0]) >= 0:
			l.at++
		case strings.HasPrefix(rest, "//"):
			if end := strings.IndexByte(rest, '\n'); end >= 0 {
				l.at += end
			} else {
				l.at = len(l.src)
			}
		case strings.HasPrefix(rest, "/*"):
			end := strings.Index(rest[2:], "*/")
			if end < 0 {
				start := l.at
				l.at = len(l.src)
				return token{tokWrong, "a comment begins with /* and does not end: expected */", start}, true
			}
			l.at += end + 4
		default:
			return token{}, false
		}
	}
	return token{}, false
}

// Error is something wrong with a text of rules.
type Error struct {
	Offset int // byte of the text, from 0
	Text   string
}

// Errors are all that is wrong with a text, in its order.
type Errors []Error

func (e Errors) Error() string {
	s := make([]string, len(e))
	for i, x := range e {
		s[i] = fmt.Sprintf("offset %d: %s", x.Offset, x.Text)
	}
	return strings.Join(s, "\n")
}

// Position turns an offset into line and column, both from 1; columns count
// characters.
func Position(text string, offset int) (line, column int) {
	offset = min(max(offset, 0), len(text))
	before := text[:offset]
	start := strings.LastIndexByte(before, '\n') + 1
	return strings.Count(before, "\n") + 1, utf8.RuneCountInString(before[start:]) + 1
}
