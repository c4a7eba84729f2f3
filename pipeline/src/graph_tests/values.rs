//! What the columns of some rows hold.

use std::collections::HashSet;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use arrow::error::ArrowError;

/// What one column holds, over all rows; every number of a list counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Column {
    pub(super) min: Option<f64>,
    pub(super) max: Option<f64>,
    /// Numbers that are none: infinities, NaN.
    pub(super) not_finite: u64,
    /// Whether it holds numbers.
    pub(super) numeric: bool,
    distinct: HashSet<Vec<u8>>,
}

impl Column {
    /// How many different values there are; NaN is one.
    pub(super) fn distinct(&self) -> u64 {
        self.distinct.len() as u64
    }

    /// Adds the values of some rows.
    pub(super) fn add(&mut self, array: &ArrayRef) -> Result<(), ArrowError> {
        match array.data_type() {
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                let (first, last) = (list.value_offsets()[0], list.value_offsets()[list.len()]);
                self.add(&list.values().slice(first as usize, (last - first) as usize))
            }
            DataType::FixedSizeList(_, width) => {
                let (list, width) = (array.as_fixed_size_list(), *width as usize);
                self.add(&list.values().slice(list.value_offset_at(0), list.len() * width))
            }
            DataType::Utf8 => {
                let texts: &StringArray = array.as_string();
                texts.iter().flatten().for_each(|text| self.see(text.as_bytes()));
                Ok(())
            }
            _ => self.add_numbers(array),
        }
    }

    fn add_numbers(&mut self, array: &ArrayRef) -> Result<(), ArrowError> {
        self.numeric = true;
        let numbers = cast(array, &DataType::Float64)?;
        let numbers: &Float64Array = numbers.as_primitive();
        for number in numbers.iter().flatten() {
            if number.is_finite() {
                self.min = Some(self.min.map_or(number, |min| min.min(number)));
                self.max = Some(self.max.map_or(number, |max| max.max(number)));
            } else {
                self.not_finite += 1;
            }
        }
        // Large whole numbers, such as ids, are not told apart by their nearest f64.
        match array.data_type() {
            DataType::UInt64 => {
                array.as_primitive::<UInt64Type>().iter().flatten().for_each(|value| self.see(&value.to_le_bytes()));
            }
            DataType::Int64 => {
                array.as_primitive::<Int64Type>().iter().flatten().for_each(|value| self.see(&value.to_le_bytes()));
            }
            _ => numbers.iter().flatten().for_each(|value| self.see(&(value + 0.0).to_bits().to_le_bytes())),
        }
        Ok(())
    }

    fn see(&mut self, value: &[u8]) {
        if !self.distinct.contains(value) {
            self.distinct.insert(value.to_vec());
        }
    }
}

/// Adds a column of a batch, if it has it.
pub(super) fn add(column: &mut Column, name: &str, batch: &RecordBatch) -> Result<(), ArrowError> {
    match batch.column_by_name(name).filter(|array| !array.is_empty()) {
        Some(array) => column.add(array),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{FixedSizeListArray, ListArray, UInt16Array, UInt64Array};
    use arrow::datatypes::{Float32Type, UInt16Type};

    #[test]
    fn lists_are_looked_into_and_only_where_rows_point() {
        let lists = ListArray::from_iter_primitive::<Float32Type, _, _>([
            Some(vec![Some(9.0)]),
            Some(vec![Some(1.0), Some(f32::NAN)]),
            Some(vec![Some(2.0)]),
        ]);
        let mut column = Column::default();
        column.add(&(Arc::new(lists.slice(1, 2)) as ArrayRef)).expect("numbers");
        assert_eq!((column.min, column.max, column.not_finite, column.distinct()), (Some(1.0), Some(2.0), 1, 3));

        let rows = [Some(vec![Some(7), Some(8)]), Some(vec![Some(3), Some(3)])];
        let fixed = FixedSizeListArray::from_iter_primitive::<UInt16Type, _, _>(rows, 2);
        let mut column = Column::default();
        column.add(&(Arc::new(fixed.slice(1, 1)) as ArrayRef)).expect("numbers");
        assert_eq!((column.min, column.max, column.distinct()), (Some(3.0), Some(3.0), 1));
    }

    #[test]
    fn ids_and_texts_are_told_apart() {
        let mut column = Column::default();
        column.add(&(Arc::new(UInt64Array::from(vec![u64::MAX, u64::MAX - 1])) as ArrayRef)).expect("numbers");
        assert_eq!(column.distinct(), 2);
        let mut column = Column::default();
        column.add(&(Arc::new(StringArray::from(vec!["a", "b", "a"])) as ArrayRef)).expect("texts");
        assert_eq!((column.distinct(), column.numeric), (2, false));
        let mut column = Column::default();
        column.add(&(Arc::new(UInt16Array::from(vec![Some(1), None])) as ArrayRef)).expect("numbers");
        assert_eq!((column.distinct(), column.min), (1, Some(1.0)));
    }
}
