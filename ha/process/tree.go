package process

import "slices"

// Branch is a process in a tree.
type Branch struct {
	Process
	Depth int // 0: its parent is not in the tree
}

// Tree orders processes so that each follows its parent, if that is one of them.
func Tree(all []Process) []Branch {
	in := map[int]bool{}
	children := map[int][]Process{}
	for _, p := range all {
		in[p.PID] = true
	}
	var roots []Process
	for _, p := range all {
		if in[p.Parent] && p.Parent != p.PID {
			children[p.Parent] = append(children[p.Parent], p)
		} else {
			roots = append(roots, p)
		}
	}
	var tree []Branch
	var add func(p Process, depth int)
	add = func(p Process, depth int) {
		tree = append(tree, Branch{p, depth})
		for _, c := range children[p.PID] {
			add(c, depth+1)
		}
	}
	for _, p := range roots {
		add(p, 0)
	}
	return tree
}

// Ancestors returns the numbers of a process and of those that it descends from.
func Ancestors(all []Process, pid int) []int {
	var line []int
	for pid != 0 && !slices.Contains(line, pid) {
		line = append(line, pid)
		i := slices.IndexFunc(all, func(p Process) bool { return p.PID == pid })
		if i < 0 {
			break
		}
		pid = all[i].Parent
	}
	return line
}
