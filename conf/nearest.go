package conf

import "strings"

// Nearest returns the name that someone who typed got most likely meant, or ""
// when none is near enough to be worth a suggestion.
func Nearest(got string, names []string) string {
	best, bestCost := "", 1+max(1, len(got)/3)
	for _, n := range names {
		if cost := distance(strings.ToLower(got), strings.ToLower(n)); cost < bestCost {
			best, bestCost = n, cost
		}
	}
	return best
}

// suggest makes the end of an error message from Nearest.
func suggest(got string, names []string) string {
	if n := Nearest(got, names); n != "" {
		return "; did you mean " + n + "?"
	}
	if len(names) == 0 {
		return ""
	}
	return "; expected one of " + strings.Join(names, ", ")
}

// distance is the number of characters to insert, delete, replace or swap with
// their neighbour to make b of a (optimal string alignment).
func distance(a, b string) int {
	s, t := []rune(a), []rune(b)
	before, prev, cur := make([]int, len(t)+1), make([]int, len(t)+1), make([]int, len(t)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(s); i++ {
		cur[0] = i
		for j := 1; j <= len(t); j++ {
			subst := 1
			if s[i-1] == t[j-1] {
				subst = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+subst)
			if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(t)]
}
