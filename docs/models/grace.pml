/*
 * Grace periods with cores that idle, leave and come back: src/sync/grace.rs, grace/period.rs and grace/retired.rs.
 * `tools/models.sh` runs it with Spin.
 *
 * Memory is sequentially consistent: a step is one access to what cores share. What weaker memory adds, loom explores
 * (tests/loom_grace.rs), with fewer steps and without fairness.
 *
 * Shown in every order:
 *   - no object is freed while a section uses it, none is freed twice, and nobody uses what `synchronize` waited for;
 *   - with FAIR, every retired object is freed in the end, and every `synchronize` without a limit returns, provided that
 *     each core that is present becomes quiescent now and then or takes interrupts, and that one core goes on polling.
 *
 * Periods are counted from the one that ended last: `done` is always 1, and when a period ends every other number falls by
 * one, down to 0, "long ago". So `requested` is 1, or 2 while a period runs, and objects come and go for ever in a finite
 * model. In the same way `presence` is its lowest bit, and `moved`: it has changed since the running period looked.
 *
 * CORES    2, or 3: then one keeps the periods, one reads, idles and leaves, and one puts objects in and takes them out.
 * OBJECTS  1 or 2; one that was freed is made again.
 * FAIR     only what a core has to do, and two assumptions: no core stands still for ever, but for one that sleeps (core 0
 *          does not), and the lock serves in order.
 * BUSY     with FAIR: the last core neither polls nor leaves; it is quiescent at the end of interrupts alone.
 * NO_KICK  nobody called `set_expedite`: right without BUSY, wrong with it.
 *
 * The other names are mistakes; tools/models.sh lists them.
 */

#ifndef CORES
#define CORES 2
#endif
#ifndef OBJECTS
#define OBJECTS 2
#endif

#define NONE 7
#define DONE 1
/* A period that has lasted more looks than this is expedited unasked. */
#define PATIENCE 1

#define ME _pid
#define LAST (CORES - 1)

mtype = { FREED, LIVE, RETIRED };

/* In the slot is an object's number, or NONE. */
byte slot = NONE;
mtype state[OBJECTS] = FREED;
/* Objects on the stack, those that wait for the running period, and those that nobody has freed yet. */
bool stacked[OBJECTS];
bool waiting[OBJECTS];
bool due[OBJECTS];

byte requested = DONE;
byte acknowledged[CORES];
bool present[CORES];
bool moved[CORES];

/* The running period. Who holds the lock looks after it. */
bool running;
bool holding[CORES];
byte looks;
bool expedited;

/* The lock, which serves in order: otherwise a core may wait for it for ever, and nothing could be said of ends. */
byte ticket, serving;

/* An interrupt is pending. */
bool kicked[CORES];

/* What a core has read: the period to acknowledge, the one to wait for, its ticket. */
byte heard[CORES];
byte wanted[CORES];
byte drawn[CORES];

/* What the code does not have: the object that a core's section uses. */
byte using[CORES] = NONE;

#define older(number) number = (number > 0 -> number - 1 : 0)

/* `done` moves to the running period. */
inline end_period() {
	d_step {
		running = false;
		requested--;
		for (i : 0 .. LAST) {
			older(acknowledged[i]); older(heard[i]); older(wanted[i]); holding[i] = false; moved[i] = false
		}
		for (i : 0 .. OBJECTS - 1) { due[i] = due[i] || waiting[i]; waiting[i] = false }
		looks = 0;
		expedited = false;
		i = 0
	}
}

inline come() {
	d_step {
		if
		:: !present[ME] -> present[ME] = true; moved[ME] = running
		:: else
		fi
	}
}

inline go() {
	d_step {
		if
		:: present[ME] -> present[ME] = false; moved[ME] = running
		:: else
		fi
	}
}

inline acknowledge() {
	heard[ME] = requested;
	d_step { acknowledged[ME] = heard[ME]; heard[ME] = 0 }
}

/* A read section, masked: nothing else of this core comes between. */
inline section() {
#ifndef READ_WHILE_AWAY
	come();
#endif
	using[ME] = slot;
#ifdef ACKNOWLEDGE_IN_SECTION
	acknowledge();
#endif
	/* Until here the object is used. */
	using[ME] = NONE
}

/* An interrupt, whose handler reads or does not, and ends in `quiescent`. */
inline interrupt() {
	kicked[ME] = false;
#ifndef FAIR
	if
	:: section()
	:: true
	fi;
#endif
	acknowledge()
}

inline take_interrupts() {
	if
	:: kicked[ME] -> interrupt()
	:: else
	fi
}

/* Period::start: `moved` becomes false as the core's presence is read. */
inline start() {
	for (i : 0 .. LAST) {
		atomic { holding[i] = present[i]; moved[i] = false }
	}
	i = 0
}

/* Period::look */
inline look() {
#ifdef FAIR
	looks = (looks > PATIENCE -> looks : looks + 1);
#endif
	for (i : 0 .. LAST) {
		if
		:: holding[i] ->
			if
			:: acknowledged[i] >= requested -> holding[i] = false
			:: else ->
#ifndef PRESENCE_UNREAD
				if
				:: moved[i] -> holding[i] = false
				:: else
				fi
#endif
				skip
			fi
		:: else
		fi
	}
	i = 0
}

/* Period::expedite */
#ifdef FAIR
#define kick(cores) d_step { for (i : 0 .. LAST) { kicked[i] = kicked[i] || cores[i] } i = 0 }

inline expedite(asked) {
	if
	:: !expedited && (asked || looks > PATIENCE) ->
		expedited = true;
#if !defined(NO_KICK) && !defined(KICK_BEFORE_REQUEST)
		kick(holding)
#endif
	:: else
	fi
}
#else
/* Interrupts come at any time as it is. */
#define expedite(asked) skip
#endif

/* Who holds the lock alone writes `holding`. CORES is 2 or 3. */
#define nobody_holds (!holding[0] && !holding[1] && !holding[LAST])

/* Domain::start, but for the presence: what is on the stack is the period's. */
inline take() {
	d_step { for (i : 0 .. OBJECTS - 1) { waiting[i] = stacked[i]; stacked[i] = false } i = 0 }
}

#define nothing_stacked (!stacked[0] && !stacked[OBJECTS - 1])

/* Domain::advance, towards the end of period wanted[ME], and of what was retired. What is due is this core's if it `frees`. Masked. */
inline advance(asked, frees) {
	d_step { drawn[ME] = ticket; ticket = (ticket + 1) % CORES };
	d_step { serving == drawn[ME]; drawn[ME] = 0 };
	do
	:: true ->
#ifndef WAIT_WITHOUT_ACKNOWLEDGING
		acknowledge();
#endif
		if
		:: running ->
			look();
			if
			:: nobody_holds -> end_period()
			:: else -> expedite(asked); break
			fi
		:: else
		fi;
		if
		:: wanted[ME] <= DONE && nothing_stacked -> break
		:: else
		fi;
#ifdef START_BEFORE_REQUEST
		take();
		start();
		d_step { requested++; running = true }
#else
#ifdef KICK_BEFORE_REQUEST
		kick(present);
#endif
#ifndef TAKEN_AFTER_REQUEST
		take();
#endif
		d_step { requested++; running = true };
#ifdef TAKEN_AFTER_REQUEST
		take();
#endif
		start()
#endif
	od;
	if
	:: frees -> d_step { for (i : 0 .. OBJECTS - 1) { mine[i] = due[i]; due[i] = false } i = 0 }
#ifdef DUE_NOT_KEPT
	:: else -> d_step { for (i : 0 .. OBJECTS - 1) { due[i] = false } i = 0 }
#else
	:: else
#endif
	fi;
	serving = (serving + 1) % CORES
}

/* Domain::need */
#ifdef NEED_OF_RUNNING_PERIOD
#define need_now requested
#else
#define need_now (requested + 1)
#endif

/* What was retired is made anew: nobody may use it. */
inline free() {
	d_step {
		assert(state[o] == RETIRED);
		assert(using[0] != o && using[1] != o && using[LAST] != o);
		state[o] = FREED
	}
}

/* Domain::poll. The look at what waits is a hint. */
inline poll() {
	if
	:: nothing_stacked && !waiting[0] && !waiting[OBJECTS - 1] && !due[0] && !due[OBJECTS - 1] -> acknowledge()
	:: else ->
		advance(false, true);
		for (o : 0 .. OBJECTS - 1) {
			if
			:: mine[o] -> mine[o] = false; free()
			:: else
			fi
		}
		o = 0
	fi
}

/* Domain::synchronize for so short a time that it fails where a core holds the period up. */
inline synchronize_once() {
	wanted[ME] = need_now;
	advance(true, false);
	wanted[ME] = 0
}

/* Slot::publish of a new object. OBJECTS is 1 or 2. */
inline publish() {
	atomic {
		if
		:: slot == NONE && state[0] == FREED -> o = 0
		:: slot == NONE && state[OBJECTS - 1] == FREED -> o = OBJECTS - 1
		fi;
		state[o] = LIVE;
		slot = o;
		o = 0
	}
}

/* Slot::unpublish. The object is `o` from now on. */
inline unpublish() {
	d_step { slot != NONE; o = slot; slot = NONE; state[o] = RETIRED }
}

/* The last reference is dropped as it leaves the slot: Link::retire. */
inline retire() {
	unpublish();
	d_step { stacked[o] = true; o = 0 }
}

/* Or its memory is used again after Domain::synchronize. */
inline reclaim() {
#ifdef NEED_BEFORE_UNPUBLISH
	d_step { slot != NONE; o = slot; wanted[ME] = need_now };
	d_step { slot == o; slot = NONE; state[o] = RETIRED };
#else
	unpublish();
	wanted[ME] = need_now;
#endif
	do
	:: advance(true, false);
		if
		:: wanted[ME] <= DONE -> break
		:: else -> take_interrupts()
		fi
	od;
	wanted[ME] = 0;
	free();
	o = 0
}

#ifndef FAIR

/* Anything in any order. Idle is to go and to come, with interrupts between: a kernel may sleep unmasked. */
#if CORES == 2
active [CORES] proctype core() {
	byte i, o;
	bool mine[OBJECTS];
	do
	:: come()
	:: go()
	:: section()
	:: interrupt()
	:: poll()
	:: publish()
	:: retire()
	:: reclaim()
	od
}
#else
active proctype keeper() {
	byte i, o;
	bool mine[OBJECTS];
	come();
	do
	:: poll()
	:: synchronize_once()
	od
}

active proctype reader() {
	do
	:: come()
	:: go()
	:: section()
	:: interrupt()
	od
}

active proctype updater() {
	byte i, o;
	bool mine[OBJECTS];
	do
	:: publish()
	:: retire()
	:: reclaim()
	od
}
#endif

#else

/* WFI, masked, which an interrupt ends, and perhaps nothing does. */
inline sleep() {
	if
	:: true
	:: kicked[ME]
	:: ME != 0 -> false
	fi
}

active [CORES] proctype core() {
	byte i, o;
	bool mine[OBJECTS];
	come();
	do
	:: take_interrupts();
		if
		:: publish()
		:: retire()
		:: reclaim()
		:: true
		fi;
#ifdef BUSY
		if
		:: ME == LAST -> goto next
		:: else
		fi;
#endif
		if
		:: poll()
		:: ME != 0 -> interrupt()
		fi;
		if
		:: true
		:: go(); sleep(); come()
		fi;
next:		skip
	od
}

ltl freed { [] ((state[0] == RETIRED) -> <> (state[0] != RETIRED)) }

#endif
