package kubelet

import "time"

// Kubelet's numbers: a container that ends again and again is restarted at once, then after 10 s, 20 s, … up to
// 5 minutes. One that ran for 10 minutes since its last start begins anew.
const (
	backoffInitial = 10 * time.Second
	backoffMax     = 5 * time.Minute
	backoffReset   = 2 * backoffMax
)

// backoff paces the starts of one container.
type backoff struct {
	delay time.Duration // before the next start, after the last end
	last  time.Time     // when delay was set: the last start
}

// forgiven tells whether a container that ended then had run long enough for a new beginning.
func (b backoff) forgiven(ended time.Time) bool {
	return b.delay == 0 || ended.Sub(b.last) >= backoffReset
}

// remaining is how long to wait before a container that ended at that time starts again.
func (b backoff) remaining(ended, now time.Time) time.Duration {
	if b.forgiven(ended) {
		return 0
	}
	return max(0, ended.Add(b.delay).Sub(now))
}

// next is the backoff after a start at now, that followed an end.
func (b backoff) next(ended, now time.Time) backoff {
	if b.forgiven(ended) {
		return backoff{backoffInitial, now}
	}
	return backoff{min(2*b.delay, backoffMax), now}
}
