package cli

import (
	"testing"
	"time"

	"github.com/skfs/skfs/replica"
)

func TestVerifyText(t *testing.T) {
	for _, c := range []struct {
		d    replica.VerifyDifference
		want string
	}{
		{replica.VerifyDifference{Path: "/d/x", What: "extra", Detail: "a file"}, "/d/x: extra (a file)"},
		{replica.VerifyDifference{Path: "/d/x", What: "xattrs"}, "/d/x: xattrs"},
		{replica.VerifyDifference{Path: "/d/x", What: "data", Bytes: 20, Ranges: []replica.VerifyRange{{Off: 0, End: 10}, {Off: 64, End: 74}}},
			"/d/x: data: 20 bytes in blocks that differ: 0-9, 64-73"},
	} {
		if got := differenceText(&c.d); got != c.want {
			t.Errorf("%s, expected %s", got, c.want)
		}
	}
	var s replica.VerifySummary
	s.Directories, s.Files, s.Bytes, s.Others, s.Duration = 2, 3, 2048, 1, 1500*time.Millisecond
	const head = "Verified 2 directories, 3 files (2.0 KiB) and 1 other objects in 1.5s: "
	for _, want := range []string{"no difference", "4 differences", "4 differences, which have been repaired"} {
		if got := summaryText(s); got != head+want {
			t.Errorf("%s, expected %s", got, head+want)
		}
		s.Mended = s.Differences > 0
		s.Differences = 4
	}
}
