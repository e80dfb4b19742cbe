package rules

import (
	"fmt"
	"slices"
	"strings"
)

// maxDepth bounds how deep conditions nest, maxRules how many rules a text has.
const (
	maxDepth = 64
	maxRules = 500
)

// Parse reads rules. The error is of type Errors; rules that are right are returned
// even when others are not. nearest finds the name that was most likely meant, "" if
// there is none (conf.Nearest; it comes from outside because conf stands on this).
func Parse(text string, nearest func(got string, names []string) string) ([]Rule, error) {
	p := &parser{lex: lexer{src: text}, nearest: nearest}
	p.advance(false)
	var all []Rule
	labels := map[string]bool{}
	for p.tok.kind != tokEnd && len(p.errs) < 20 {
		r, ok := p.rule()
		if !ok {
			p.skip()
			continue
		}
		if labels[r.Label] {
			p.errorf(r.Offset, "two rules are called %s: give each a label of its own", r.Label)
		}
		labels[r.Label] = true
		if all = append(all, r); len(all) > maxRules {
			p.errorf(r.Offset, "there are more than %d rules", maxRules)
			break
		}
	}
	if len(p.errs) > 0 {
		return all, p.errs
	}
	return all, nil
}

// parser reads the grammar of the package comment, one token ahead.
type parser struct {
	lex     lexer
	tok     token
	depth   int
	errs    Errors
	nearest func(string, []string) string
}

// failed is how a rule that is wrong is left; see rule.
type failed struct{}

func (p *parser) errorf(offset int, format string, args ...any) {
	p.errs = append(p.errs, Error{offset, fmt.Sprintf(format, args...)})
}

// fail ends the rule.
func (p *parser) fail(offset int, format string, args ...any) {
	p.errorf(offset, format, args...)
	panic(failed{})
}

// advance reads the next token; operand: a resource may stand there.
func (p *parser) advance(operand bool) { p.tok = p.lex.next(operand) }

// skip goes on behind the next ";".
func (p *parser) skip() {
	for p.tok.kind != tokEnd {
		end := p.is(";")
		p.advance(false)
		if end {
			return
		}
	}
}

func (p *parser) is(sign string) bool { return p.tok.kind == tokSign && p.tok.text == sign }

// found describes the token for an error.
func (p *parser) found() string {
	switch p.tok.kind {
	case tokEnd:
		return "the end of the text"
	case tokQuoted:
		return `"` + p.tok.text + `"`
	}
	return p.tok.text
}

// expected reports that something else stands here.
func (p *parser) expected(format string, args ...any) {
	if p.tok.kind == tokWrong {
		p.fail(p.tok.offset, "%s", p.tok.text)
	}
	p.fail(p.tok.offset, "%s: expected %s", p.found(), fmt.Sprintf(format, args...))
}

// sign takes a sign.
func (p *parser) sign(s, what string, operand bool) {
	if !p.is(s) {
		p.expected("%s", what)
	}
	p.advance(operand)
}

// keyword takes a word of the language.
func (p *parser) keyword(w, what string) {
	if p.tok.kind != tokWord || p.tok.text != w {
		p.expected("%s", what)
	}
	p.advance(false)
}

// rule reads one rule; false: it is wrong, and what is left of it is to be skipped.
func (p *parser) rule() (r Rule, ok bool) {
	defer func() {
		if e := recover(); e != nil {
			if _, mine := e.(failed); !mine {
				panic(e)
			}
			r, ok = Rule{}, false
		}
	}()
	p.depth = 0
	r.Label, r.Offset = p.tok.text, p.tok.offset
	if p.tok.kind != tokWord || !validLabel(r.Label) || r.Label == "if" {
		p.expected("the label of a rule, as in \"label: if (condition) then action;\"")
	}
	p.advance(false)
	p.sign(":", fmt.Sprintf("\":\" after the label %s", r.Label), false)
	p.keyword("if", "if")
	p.sign("(", "\"(\" after if", true)
	r.If = p.condition()
	p.sign(")", "\")\", && or || after a comparison", false)
	p.keyword("then", "then")
	p.consequence(&r)
	if p.tok.kind == tokEnd {
		return r, true
	}
	p.sign(";", fmt.Sprintf("\";\" at the end of rule %s", r.Label), false)
	return r, true
}

func validLabel(s string) bool {
	return s != "" && !strings.ContainsAny(s, "*?%@/:") && (s[0] == '_' || s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z')
}

// consequence reads what follows from the condition.
func (p *parser) consequence(r *Rule) {
	word, at := p.tok.text, p.tok.offset
	if p.tok.kind != tokWord {
		p.expected("an action (%s) or an assignment", actionList())
	}
	p.advance(false)
	if p.is("=") {
		p.advance(false)
		res := p.resource(word, at)
		switch {
		case res.Remote:
			p.fail(at, "%s: a rule assigns resources of its own node only", word)
		case res.Wild():
			p.fail(at, "%s: a rule assigns one resource, by its name", word)
		case !assignable(res.Class):
			p.fail(at, "%s is set by skfs itself: a rule assigns resources of class custom only", word)
		}
		r.Assign = &Assignment{res.Name(), p.value()}
		return
	}
	if !slices.Contains(Actions, Action(word)) {
		p.fail(at, "%s is no action%s", word, p.suggest(word, actionNames()))
	}
	r.Then = Action(word)
	p.sign("(", fmt.Sprintf("\"()\" after %s", word), false)
	p.sign(")", fmt.Sprintf("\")\": %s takes no argument", word), false)
}

func actionNames() []string {
	s := make([]string, len(Actions))
	for i, a := range Actions {
		s[i] = string(a)
	}
	return s
}

func actionList() string { return strings.Join(actionNames(), "(), ") + "()" }

// value reads a state that is assigned.
func (p *parser) value() string {
	v := p.tok.text
	switch p.tok.kind {
	case tokQuoted:
		p.checkQuoted()
	case tokWord:
		if !slices.Contains(words, v) {
			p.fail(p.tok.offset, "%s is no state%s", v, p.suggest(v, words))
		}
	default:
		p.expected("a state: %s", strings.Join(words, ", "))
	}
	p.advance(false)
	return v
}

func (p *parser) checkQuoted() {
	for _, c := range []byte(p.tok.text) {
		if c < ' ' || c > '~' {
			p.fail(p.tok.offset, "\"%s\": a state consists of ASCII characters", p.tok.text)
		}
	}
	if p.tok.text == "" || strings.TrimSpace(p.tok.text) != p.tok.text {
		p.fail(p.tok.offset, "\"%s\": a state is a text without space around it", p.tok.text)
	}
}

// A part is what a piece of a condition is: a condition, or a state that is to be
// compared.
type part struct {
	cond Condition
	op   Operand
	at   int
}

// holds is a part that has to be a condition.
func (p *parser) holds(x part) Condition {
	if x.cond == nil {
		if p.tok.kind == tokWrong {
			p.fail(p.tok.offset, "%s", p.tok.text)
		}
		p.fail(x.at, "%s is a state, not a condition: compare it, as in %s == down", x.op, x.op)
	}
	return x.cond
}

func (p *parser) condition() Condition { return p.holds(p.or()) }

func (p *parser) or() part {
	x := p.and()
	for p.is("||") {
		a := p.holds(x)
		p.advance(true)
		x = part{cond: Or{a, p.holds(p.and())}, at: x.at}
	}
	return x
}

func (p *parser) and() part {
	x := p.not()
	for p.is("&&") {
		a := p.holds(x)
		p.advance(true)
		x = part{cond: And{a, p.holds(p.not())}, at: x.at}
	}
	return x
}

func (p *parser) not() part {
	if !p.is("!") {
		return p.comparison()
	}
	p.deeper()
	defer func() { p.depth-- }()
	at := p.tok.offset
	p.advance(true)
	return part{cond: Not{p.holds(p.not())}, at: at}
}

func (p *parser) deeper() {
	if p.depth++; p.depth > maxDepth {
		p.fail(p.tok.offset, "the condition is nested deeper than %d", maxDepth)
	}
}

func (p *parser) comparison() part {
	a := p.operand()
	if p.is("=") {
		p.fail(p.tok.offset, "=: a comparison is written ==")
	}
	if !p.is("==") && !p.is("!=") {
		return a
	}
	sign, at, differ := p.tok.text, p.tok.offset, p.tok.text == "!="
	p.advance(true)
	b := p.operand()
	if p.is("==") || p.is("!=") {
		p.fail(p.tok.offset, "%s: comparisons are not chained; put the first one into parentheses", p.tok.text)
	}
	switch {
	case (a.cond == nil) != (b.cond == nil):
		p.fail(at, "%s compares a state with a condition: expected two states or two conditions", sign)
	case a.cond != nil && differ:
		return part{cond: Not{Same{a.cond, b.cond}}, at: a.at}
	case a.cond != nil:
		return part{cond: Same{a.cond, b.cond}, at: a.at}
	}
	if wild(a.op) && wild(b.op) {
		p.fail(at, "%s %s %s: ? and * may stand on one side of a comparison only", a.op, sign, b.op)
	}
	return part{cond: Compare{a.op, b.op, differ}, at: a.at}
}

func wild(o Operand) bool {
	r, ok := o.(Resource)
	return ok && r.Wild()
}

func (p *parser) operand() part {
	at := p.tok.offset
	switch {
	case p.is("("):
		p.deeper()
		defer func() { p.depth-- }()
		p.advance(true)
		x := p.or()
		p.sign(")", "\")\", && or || after a comparison", false)
		return x
	case p.tok.kind == tokQuoted:
		p.checkQuoted()
		v := p.tok.text
		p.advance(false)
		return part{op: Value(v), at: at}
	case p.tok.kind != tokWord:
		p.expected("a resource (class.name), a state (%s) or cluster()", strings.Join(words, ", "))
	}
	word := p.tok.text
	p.advance(false)
	switch {
	case word == "cluster" || p.is("("):
		if word != "cluster" {
			p.fail(at, "%s is no function: expected cluster()", word)
		}
		p.sign("(", "\"()\" after cluster", false)
		p.sign(")", "\")\": cluster takes no argument", false)
		return part{op: Cluster{}, at: at}
	case slices.Contains(words, word):
		return part{op: Value(word), at: at}
	case !strings.Contains(word, "."):
		p.fail(at, "%s is neither a resource (class.name) nor a state%s", word, p.suggest(word, words))
	}
	return part{op: p.resource(word, at), at: at}
}

// resource checks the name of a resource.
func (p *parser) resource(word string, at int) Resource {
	r, ok := splitResource(word)
	switch {
	case !ok || strings.Contains(r.Class, ":"):
		p.fail(at, "%s is no resource: expected class.name", word)
	case !slices.Contains(Classes, r.Class):
		p.fail(at, "%s: there is no class of resources %s%s", word, r.Class, p.suggest(r.Class, Classes))
	case !r.Wild() && strings.ContainsAny(r.ID, "*?"):
		p.fail(at, "%s: ? and * stand for a whole name; expected %s.?, %s.* or a name", word, r.Class, r.Class)
	}
	return r
}

// suggest ends an error with what was meant, or what is possible.
func (p *parser) suggest(got string, possible []string) string {
	if n := p.nearest(got, possible); n != "" {
		return fmt.Sprintf("; did you mean %s?", n)
	}
	return "; expected one of " + strings.Join(possible, ", ")
}
